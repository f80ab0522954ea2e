"""The tuner layer that adds a block's prompts to what its attention sees."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mona_peft.blocks.rows import choose_adapters
from mona_peft.tuners.base.mixed_batch import row_groups
from mona_peft.tuners.base.wrapped import WrappedLayer

from .config import VPTConfig
from .module import Prompts

# How many images the norm before the attention that this thread runs next has seen.
_thread = threading.local()


class VPTLayer(WrappedLayer):
    """An attention module whose tokens are joined by prompts.

    A deep prompt is dropped after its block, so all it does is to be attended to: it is normalised as the block's
    tokens are, joins them in front, and its own outputs are cut off.

    Args:
        base_layer (`nn.Module`): The attention module.
        block (`nn.Module`): Its block.
        norm (`str`): Path, in the block, of the norm before attention.
        width (`int`): Channels of the tokens.
        bound (`float`, *optional*): Bound of the first values of new prompts.
    """

    adapter_layer_names = ("vpt_prompts",)
    vpt_prompts: nn.ModuleDict

    def __init__(
        self, base_layer: nn.Module, block: nn.Module, norm: str, width: int, bound: float | None = None
    ) -> None:
        super().__init__(base_layer)
        self._block = [block]  # in a list, lest it become a child
        self._norm_path = norm
        self._width = width
        self._bound = bound
        self._images = 1
        self.handles.append(self.norm.register_forward_pre_hook(self._see_images))

    def join(self, position_bias: nn.Module) -> None:
        """Learn of the module that gives Swin's position bias."""
        self.handles.append(position_bias.register_forward_hook(self._pad_bias))

    def make_adapter(self, config: VPTConfig) -> nn.Module:
        """Make the prompts of a block."""
        return Prompts(self.width, config.vpt_tokens, config.vpt_dropout, self._bound)

    @property
    def norm(self) -> nn.Module:
        """The block's norm before attention; other methods may have put a layer in its place."""
        return self._block[0].get_submodule(self._norm_path)

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self._width

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run attention over prompts and tokens `(B, N, C)`, B counting windows in Swin."""
        groups = None if self.disable_adapters else row_groups(len(x))
        if groups is None:
            return self._attend(x, args, kwargs)
        outputs = []
        for names, rows in groups:
            with choose_adapters(names):
                args_of_rows = tuple(_pick(value, rows, len(x)) for value in args)
                kwargs_of_rows = {name: _pick(value, rows, len(x)) for name, value in kwargs.items()}
                outputs.append(self._attend(x[rows], args_of_rows, kwargs_of_rows))
        order = torch.cat([rows for _, rows in groups]).argsort()
        if not isinstance(outputs[0], tuple):
            return _join(outputs, order)
        return tuple(_join(parts, order) for parts in zip(*outputs, strict=True))

    def _attend(self, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> Any:
        adapters: list[Prompts] = list(self.active_modules())
        if not adapters:
            return self.base_layer(x, *args, **kwargs)
        prompts = self._prompts(adapters, x)
        count = prompts.shape[1]
        if args and isinstance(args[0], Tensor):
            args = (_pad_mask(args[0], count), *args[1:])
        elif isinstance(kwargs.get("attention_mask"), Tensor):
            kwargs = kwargs | {"attention_mask": _pad_mask(kwargs["attention_mask"], count)}
        output = self.base_layer(torch.cat([prompts, x], dim=1), *args, **kwargs)
        return (output[0][:, count:], *output[1:]) if isinstance(output, tuple) else output[:, count:]

    def _prompts(self, adapters: Sequence[Prompts], x: Tensor) -> Tensor:
        """The normalised prompts for the rows of `x`; those of an image are the same in all its windows."""
        rows, images = x.shape[0], 1
        if any(adapter.dropout.training and adapter.dropout.p for adapter in adapters):
            images = self._images if torch.compiler.is_compiling() else _thread.images
        prompts = torch.cat([adapter(images) for adapter in adapters], dim=1).to(x.dtype)
        # A method that acts on the block's stream may watch the norm, for the tokens that go through it.
        prompts = self.norm.forward(prompts) if hasattr(self._block[0], "_tap") else self.norm(prompts)
        return prompts.repeat_interleave(rows // images, dim=0) if images > 1 else prompts.expand(rows, -1, -1)

    def _see_images(self, norm: nn.Module, args: tuple) -> None:
        """Pre-hook on the norm before attention, which sees images as rows where attention sees their windows."""
        if torch.compiler.is_compiling():  # which does not trace threads
            self._images = args[0].shape[0]
        else:
            _thread.images = args[0].shape[0]

    def _pad_bias(self, module: nn.Module, args: tuple, bias: Tensor) -> Tensor:
        """Hook on the position bias `(1, heads, N, N)`: none for the prompts."""
        adapters: list[Prompts] = list(self.active_modules())
        count = sum(adapter.tokens.shape[0] for adapter in adapters)
        return _pad_mask(bias, count) if count else bias


def _pad_mask(mask: Tensor, count: int) -> Tensor:
    """Let `count` tokens in front attend and be attended to in a mask `(..., N, N)`."""
    return F.pad(mask, (count, 0, count, 0), value=True if mask.dtype == torch.bool else 0)


def _pick(value: object, rows: Tensor, total: int) -> object:
    """The part of an argument that belongs to some rows, if it has one for each."""
    return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == total else value


def _join(parts: Sequence[Any], order: Tensor) -> object:
    """Put the results of groups of rows together, in the order of the rows."""
    if not isinstance(parts[0], Tensor):
        return parts[0]
    if len({part.shape[1:] for part in parts}) > 1:
        raise ValueError(
            "The adapters that the rows name have different numbers of prompts, so their attention weights have "
            "different sizes. Call the model without output_attentions, or once for each adapter."
        )
    return torch.cat(list(parts))[order]
