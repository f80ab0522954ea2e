"""The tuner layer that holds a block's AdaptFormer adapters."""

from __future__ import annotations

from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.base.tapped import TappedLayer
from mona_peft.tuners.bottleneck.module import Bottleneck

from .config import AdaptFormerConfig


class AdaptFormerLayer(TappedLayer):
    """The AdaptFormer adapters of one block, keyed by adapter name."""

    adapter_layer_names = ("adaptformer_mlp",)
    adaptformer_mlp: nn.ModuleDict

    def update_layer(self, adapter_name: str, config: AdaptFormerConfig) -> None:
        """Create a new adapter."""
        adapter = Bottleneck(
            self.dim,
            config.bottleneck_dim,
            config.adaptformer_dropout,
            config.adaptformer_scale,
            config.init_weights,
            config.adaptformer_activation or "relu",
        )
        adapter.train(self.training)
        self.adaptformer_mlp[adapter_name] = self.place(adapter)

    def beside_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """The sum of what the active adapters add in parallel with the MLP, from the stream after attention."""
        return self.sum_deltas(self.adaptformer_mlp, hidden_states)
