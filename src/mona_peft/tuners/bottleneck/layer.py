"""The tuner layer that holds the bottleneck adapters of one output projection."""

from __future__ import annotations

from torch import nn

from mona_peft.tuners.base.wrapped import WrappedLayer

from .config import BottleneckConfig
from .module import Bottleneck


class BottleneckLayer(WrappedLayer):
    """An output projection with bottleneck adapters on its output."""

    adapter_layer_names = ("bottleneck_adapter",)
    bottleneck_adapter: nn.ModuleDict

    def make_adapter(self, config: BottleneckConfig) -> nn.Module:
        """Make one adapter of the width of the output."""
        return Bottleneck(
            self.width, config.bottleneck_dim, config.bottleneck_dropout, init_weights=config.init_weights
        )
