"""The tuner layer that holds the scales and shifts of one layer's output."""

from __future__ import annotations

from torch import nn

from mona_peft.tuners.base.wrapped import WrappedLayer

from .config import SSFConfig
from .module import ScaleShift


class SSFLayer(WrappedLayer):
    """A linear layer, layer norm or convolution with scales and shifts on its output."""

    adapter_layer_names = ("ssf_output",)
    ssf_output: nn.ModuleDict

    def make_adapter(self, config: SSFConfig) -> nn.Module:
        """Make scale and shift of the width of the output."""
        channel_dim = 1 if gives_images(self.get_base_layer()) else -1
        return ScaleShift(self.width, channel_dim, config.init_weights)


def gives_images(module: nn.Module) -> bool:
    """Whether a layer's output has its channels first, `(B, C, H, W)`: convolutions, and norms made for them."""
    is_norm = isinstance(module, nn.LayerNorm)
    channels_first = getattr(module, "data_format", "") == "channels_first"
    return isinstance(module, nn.Conv2d) or (is_norm and (channels_first or "2d" in type(module).__name__))
