"""The map of a block's salient channels as a plain module.

Paper: "SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels" (IJCV 2023,
https://arxiv.org/abs/2309.08513). Reference: the authors' code (https://github.com/zhaohengyuan1/SCT), of which the
selection of channels, the training script and both models were read. As there, the map acts on the residual stream
after attention, in one place of each block, with a bias. The published ViT has no factor in its map, for weights that
have it in them; the factor is that of its Swin and of its settings. Left out: the variant on the query and value
projections, and the one that scales the channels themselves. Deviations: the map starts at zero unless
`init_weights=False`, so that the adapted model starts as the base model; after the MLP it acts on the residual stream,
on which its channels are chosen, and not on what the MLP adds to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NOT_SELECTED = (
    "The salient channels of this SCT adapter have not been selected. Call "
    "`mona_peft.select_salient_channels(model, batches)` on training data first, or load an adapter that has them."
)


class ChannelMap(nn.Module):
    """A linear map of some channels, added to them: `x[channels] += scale * Linear(x[channels])`.

    The channels are a buffer, saved with the weights; until they are selected it holds -1, also in a file, and the
    module refuses to run.

    Args:
        dim (`int`): Channels m.
        num_channels (`int`): Channels K that are mapped, all if m is less.
        scale (`float`): Factor of what is added.
        init_weights (`bool`): True for a map that starts at zero; False for the authors' normal draws of 0.02.
    """

    channels: Tensor

    def __init__(self, dim: int, num_channels: int = 96, scale: float = 0.15, init_weights: bool = True) -> None:
        super().__init__()
        size = min(num_channels, dim)
        self.dim = dim
        self.scale = scale
        self.selected = size == dim
        self.linear = nn.Linear(size, size)
        self.register_buffer("channels", torch.arange(size) if self.selected else torch.full((size,), -1))
        nn.init.zeros_(self.linear.bias)
        if init_weights:
            nn.init.zeros_(self.linear.weight)
        else:
            nn.init.trunc_normal_(self.linear.weight, std=0.02)

    def select(self, scores: Tensor) -> None:
        """Map the channels of the greatest `scores` `(m,)`; of equals, the first."""
        chosen = scores.argsort(descending=True, stable=True)[: len(self.channels)]
        self.channels.copy_(chosen.sort().values)
        self.selected = True

    def forward(self, x: Tensor) -> Tensor:
        """What the map adds to `x` `(..., m)`, in the shape and type of `x`.

        Raises:
            RuntimeError: If no channels have been selected.
        """
        if not self.selected and not self._came_with_selection():
            raise RuntimeError(NOT_SELECTED)
        added = self.scale * self.linear(x.index_select(-1, self.channels))
        return torch.zeros_like(x).index_copy(-1, self.channels, added.to(x.dtype))

    def delta(self, x: Tensor) -> Tensor:
        """See `forward`; a call of the module, so that its hooks run."""
        return self(x)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        channels, weight = (state_dict.get(f"{prefix}{name}") for name in ("channels", "linear.weight"))
        if channels is not None and not channels.is_meta:
            self.selected = self._is_selection(channels, weight)

    @torch.compiler.assume_constant_result
    def _came_with_selection(self) -> bool:
        """Whether the buffer has been replaced by selected channels since, as transformers loads weights."""
        self.selected = self._is_selection(self.channels, self.linear.weight)
        return self.selected

    def _is_selection(self, channels: Tensor, weight: Tensor | None) -> bool:
        return bool((channels >= 0).all()) and not self._is_of_old_file(channels, weight)

    def _is_of_old_file(self, channels: Tensor, weight: Tensor | None) -> bool:
        """Whether a file of an earlier release holds the first channels because none had been selected.

        With weights other than zero the adapter was trained on them.
        """
        size = len(self.channels)
        first = self.dim > size == len(channels) and bool((channels.cpu() == torch.arange(size)).all())
        return first and weight is not None and not weight.is_meta and not bool(weight.any())
