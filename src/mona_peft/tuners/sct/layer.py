"""The tuner layer that holds the maps of a block's salient channels."""

from __future__ import annotations

from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.base.tapped import TappedLayer

from .config import SCTConfig
from .module import ChannelMap


class SCTLayer(TappedLayer):
    """The maps of one block, a `ModuleDict` for each position keyed by adapter name."""

    adapter_layer_names = ("sct_attention", "sct_mlp")
    sct_attention: nn.ModuleDict
    sct_mlp: nn.ModuleDict

    def update_layer(self, adapter_name: str, config: SCTConfig) -> None:
        """Create a new adapter's maps at the positions its configuration names."""
        for position in config.positions:
            channel_map = ChannelMap(self.dim, config.num_channels, config.sct_scale, config.init_weights)
            channel_map.train(self.training)
            getattr(self, f"sct_{position}")[adapter_name] = self.place(channel_map)

    def maps(self, adapter_name: str) -> dict[str, ChannelMap]:
        """The maps of an adapter by position."""
        found = {"attention": self.sct_attention, "mlp": self.sct_mlp}
        return {place: maps[adapter_name] for place, maps in found.items() if adapter_name in maps}  # type: ignore[misc]

    def after_attention(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """The sum of what the active adapters add after attention."""
        return self.sum_deltas(self.sct_attention, hidden_states)

    def after_mlp(self, hidden_states: Tensor, layout: TokenLayout) -> Tensor | None:
        """The sum of what the active adapters add after the MLP."""
        return self.sum_deltas(self.sct_mlp, hidden_states)
