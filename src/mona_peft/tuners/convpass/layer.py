"""The tuner layer that holds a block's convolutional bypasses."""

from __future__ import annotations

from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.base.tapped import TappedLayer

from .config import ConvpassConfig
from .module import Convpass


class ConvpassLayer(TappedLayer):
    """The bypasses of one block, a `ModuleDict` for each branch keyed by adapter name."""

    adapter_layer_names = ("convpass_attention", "convpass_mlp")
    convpass_attention: nn.ModuleDict
    convpass_mlp: nn.ModuleDict
    reads_norms = True

    def update_layer(self, adapter_name: str, config: ConvpassConfig) -> None:
        """Create a new adapter's bypasses at the positions its configuration names."""
        for position in config.positions:
            bypass = Convpass(
                self.dim,
                config.bottleneck_dim,
                config.convpass_dropout,
                config.convpass_scale,
                config.init_weights,
            )
            bypass.train(self.training)
            getattr(self, f"convpass_{position}")[adapter_name] = self.place(bypass)

    def beside_attention(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """The sum of what the active adapters add in parallel with attention."""
        return self.sum_deltas(self.convpass_attention, normed, layout)

    def beside_mlp_normed(self, normed: Tensor, layout: TokenLayout) -> Tensor | None:
        """The sum of what the active adapters add in parallel with the MLP."""
        return self.sum_deltas(self.convpass_mlp, normed, layout)
