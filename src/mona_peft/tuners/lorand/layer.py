"""The tuner layer that holds the LoRand adapters of one output projection."""

from __future__ import annotations

from torch import nn

from mona_peft.tuners.base.wrapped import WrappedLayer

from .config import LoRandConfig
from .module import LoRand


class LoRandLayer(WrappedLayer):
    """An output projection with LoRand adapters on its output."""

    adapter_layer_names = ("lorand_adapter",)
    lorand_adapter: nn.ModuleDict

    def make_adapter(self, config: LoRandConfig) -> nn.Module:
        """Make one adapter of the width of the output."""
        return LoRand(
            self.width,
            config.bottleneck_dim or self.width // 2,
            config.lorand_alpha,
            config.lorand_beta,
            config.lorand_dropout,
            config.init_weights,
        )
