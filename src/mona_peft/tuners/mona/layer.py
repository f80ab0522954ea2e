"""The tuner layer that holds a block's Mona adapters."""

from __future__ import annotations

from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.base.tapped import TappedLayer

from .config import MonaConfig
from .module import Mona, TokenBatchNorm


class MonaLayer(TappedLayer):
    """The Mona adapters of one block, a `ModuleDict` for each position keyed by adapter name."""

    adapter_layer_names = ("mona_attention", "mona_mlp")
    mona_attention: nn.ModuleDict
    mona_mlp: nn.ModuleDict

    def update_layer(self, adapter_name: str, config: MonaConfig) -> None:
        """Create a new adapter's modules at the positions its configuration names."""
        for position in config.positions if self.branches else ("mlp",):
            mona = Mona(
                self.dim,
                bottleneck_dim=config.bottleneck_dim,
                kernel_sizes=config.kernel_sizes,
                dropout=config.mona_dropout,
                variant=config.variant,
                scale=config.scale,
                conv_bias=config.conv_bias,
                init_weights=config.init_weights,
                norm=config.norm,
                output_scale=config.output_scale,
            )
            mona.train(self.training)
            getattr(self, f"mona_{position}")[adapter_name] = self.place(mona)

    def check_groups(self) -> None:
        """Refuse to train batch norms, which would norm each group alone.

        Raises:
            ValueError: If there is one that trains.
        """
        parts = [part for adapter in self._active_modules() for part in adapter.modules()]
        norms = [part for part in parts if isinstance(part, TokenBatchNorm)]
        if any(norm.training and norm.weight.requires_grad for norm in norms):
            raise ValueError(
                "MonaConfig(norm='batch') cannot be trained on a batch whose images have grids of several shapes: "
                "each shape would be normed alone. Train on batches of one shape, or with norm='layer'."
            )

    def after_attention(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """The sum of what the active adapters add after attention."""
        return self.sum_deltas(self.mona_attention, hidden_states, layout)

    def after_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """The sum of what the active adapters add after the MLP."""
        return self.sum_deltas(self.mona_mlp, hidden_states, layout)

    def stream_after_attention(
        self, hidden_states: Tensor, layout: TokenLayout
    ) -> tuple[Tensor, Tensor | None] | None:
        """The stream after attention with a sole adapter applied, and what it added."""
        mona = self._sole_fast(self.mona_attention, hidden_states)
        return None if mona is None else mona.stream(hidden_states, layout, split=True)

    def stream_after_mlp(self, hidden_states: Tensor, extra: Tensor | None, layout: TokenLayout) -> Tensor | None:
        """The stream after the MLP, to which `extra` is due, with a sole adapter applied."""
        mona = self._sole_fast(self.mona_mlp, hidden_states)
        return None if mona is None else mona.stream(hidden_states, layout, extra)[0]

    def _sole_fast(self, adapters: nn.ModuleDict, hidden_states: Tensor) -> Mona | None:
        active = [adapters[name] for name in self.active_adapters if name in adapters]
        sole = active[0] if len(active) == 1 else None
        return sole if isinstance(sole, Mona) and sole.runs_fast(hidden_states) else None

    def _delta(self, adapter: nn.Module, hidden_states: Tensor, *layout: TokenLayout) -> Tensor:
        if isinstance(adapter, Mona):
            return super()._delta(adapter, hidden_states, *layout)
        # What wraps an adapter (FSDP, checkpointing) acts when it is called.
        hidden_states_cast = self._cast_input_dtype(hidden_states, next(adapter.parameters()).dtype)
        return (adapter(hidden_states_cast, *layout) - hidden_states_cast).to(hidden_states.dtype)
