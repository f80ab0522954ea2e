"""What a tuner layer offers the block it is a child of."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .layout import TokenLayout


class ResidualAdapter(Protocol):
    """Every method may return None for "nothing to add"; where each acts says the head of [`tap`]."""

    #: Whether the layer has `beside_attention` and `beside_mlp_normed`: the norms' outputs are seen only if one has.
    reads_norms: bool

    def is_idle(self) -> bool:
        """Whether the layer adds nothing at all, so that the block may run as its base class does."""

    def check_groups(self) -> None:
        """Refuse a call whose rows, or images, come in several groups, where that changes what the layer adds."""

    def after_attention(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the stream after attention, of which the MLP branch sees the sum."""

    def beside_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result, computed from the input of the MLP branch."""

    def after_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result, computed from it."""

    def beside_attention(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the stream after attention, computed from the norm's output that attention reads."""

    def beside_mlp_normed(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """What to add to the block's result, computed from the norm's output that the MLP reads."""

    def stream_after_attention(
        self, hidden_states: Tensor, layout: TokenLayout
    ) -> tuple[Tensor, Tensor | None] | None:
        """The stream with `after_attention` added and that delta, if both can be had at once for less."""

    def stream_after_mlp(self, hidden_states: Tensor, extra: Tensor | None, layout: TokenLayout) -> Tensor | None:
        """`hidden_states + extra` with the `after_mlp` of that sum added, if it can be had at once for less."""
