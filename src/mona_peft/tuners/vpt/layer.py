"""The tuner layer that adds a block's prompts to what its attention sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mona_peft.tuners.base.wrapped import WrappedLayer

from .config import VPTConfig
from .module import Prompts


class VPTLayer(WrappedLayer):
    """An attention module whose tokens are joined by prompts.

    A deep prompt is dropped after its block, so all it does is to be attended to: it is normalised as the block's
    tokens are, joins them in front, and its own outputs are cut off.
    """

    adapter_layer_names = ("vpt_prompts",)
    vpt_prompts: nn.ModuleDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self._norm: list[Any] = []  # in a list, lest it become a child: the block owns it

    def join(self, norm: nn.Module, position_bias: nn.Module | None) -> None:
        """Learn of the block's norm before attention and, in Swin, of the module that gives its position bias."""
        self._norm = [norm]
        if position_bias is not None:
            self.handles.append(position_bias.register_forward_hook(self._pad_bias))

    def update_layer(self, adapter_name: str, config: VPTConfig) -> None:
        """Create a new adapter's prompts where attention is; attention has no `weight` for PEFT to go by."""
        super().update_layer(adapter_name, config)
        parameter = next(self.get_base_layer().parameters())
        prompts = self.vpt_prompts[adapter_name]
        if not any(p.is_meta for p in prompts.parameters()):
            prompts.to(device=parameter.device, dtype=parameter.dtype)

    def make_adapter(self, config: VPTConfig) -> nn.Module:
        """Make the prompts of a block."""
        return Prompts(self.width, config.vpt_tokens, config.vpt_dropout)

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return next(parameter for parameter in self.get_base_layer().parameters() if parameter.dim() == 2).shape[-1]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run attention over prompts and tokens `(B, N, C)`, B counting windows in Swin."""
        adapters: list[Any] = list(self.active_modules())
        if not adapters:
            return self.base_layer(x, *args, **kwargs)
        prompts = self._norm[0](torch.cat([adapter(1) for adapter in adapters], dim=1).to(x.dtype))
        count = prompts.shape[1]
        if args and isinstance(args[0], Tensor):
            args = (_pad_mask(args[0], count), *args[1:])
        elif isinstance(kwargs.get("attention_mask"), Tensor):
            kwargs["attention_mask"] = _pad_mask(kwargs["attention_mask"], count)
        output = self.base_layer(torch.cat([prompts.expand(x.shape[0], -1, -1), x], dim=1), *args, **kwargs)
        return (output[0][:, count:], *output[1:]) if isinstance(output, tuple) else output[:, count:]

    def _pad_bias(self, module: nn.Module, args: Any, bias: Tensor) -> Tensor:
        """Hook on the position bias `(1, heads, N, N)`: none for the prompts."""
        adapters: list[Any] = list(self.active_modules())
        count = sum(adapter.tokens.shape[0] for adapter in adapters)
        return _pad_mask(bias, count) if count else bias


def _pad_mask(mask: Tensor, count: int) -> Tensor:
    """Let `count` tokens in front attend and be attended to in a mask `(..., N, N)`."""
    return F.pad(mask, (count, 0, count, 0), value=True if mask.dtype == torch.bool else 0)
