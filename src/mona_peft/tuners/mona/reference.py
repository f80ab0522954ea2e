"""Mona written down as it is defined, operation by operation: what the faster forms are compared against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mona_peft.blocks.layout import TokenLayout

from .module import Mona, ScaledNorm


def plain_delta(
    mona: Mona, x: Tensor, layout: TokenLayout, dropout: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """What `mona` adds to `x`, by the formulas of the paper and of the official code.

    Args:
        mona (`Mona`): The adapter.
        x (`Tensor`): `(B, N, m)`, or `(B, H, W, m)` without extra tokens.
        layout (`TokenLayout`): How the N tokens are laid out.
        dropout (`Callable`, *optional*): Used instead of the adapter's `nn.Dropout`.

    Returns:
        `Tensor`: In the shape of `x`.
    """
    tokens = x.reshape(x.shape[0], -1, mona.dim)
    down = mona.down(_scaled_norm(mona.norm, tokens) if mona.variant == "final" else tokens)
    dropped = (dropout or mona.dropout)(F.gelu(_filter(mona, down, layout)))
    added = mona.up(dropped).reshape(x.shape)
    return added * x.square().mean(-1, keepdim=True).sqrt() if mona.follows_stream else added


def use_plain(model: nn.Module) -> nn.Module:
    """Let every Mona of `model` run as [`plain_delta`], in place."""
    for module in model.modules():
        if isinstance(module, Mona):
            module.fast_path = False
            module._delta = functools.partial(plain_delta, module)  # type: ignore[method-assign]
    return model


def _scaled_norm(norm: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(norm, ScaledNorm):  # left out
        return norm(x)
    return norm.norm_scale * norm.norm(x) + norm.input_scale * x


def _filter(mona: Mona, z: Tensor, layout: TokenLayout) -> Tensor:
    on_grid = functools.partial(_on_grid, layout=layout)
    mean = 1 / len(mona.depthwise)
    if mona.variant == "final":
        z = on_grid(mona.depthwise, z) * mean + z
        return on_grid([mona.pointwise], z) + z
    if mona.variant == "v1":
        return on_grid([mona.pointwise], on_grid(mona.depthwise, z)) + z
    scale = 1.0 if mona.variant == "v2" else mean
    z = on_grid(mona.depthwise, _scaled_norm(mona.norm1, z)) * scale + z
    return on_grid([mona.pointwise], _scaled_norm(mona.norm2, z)) + z


def _on_grid(convolutions: Iterable[nn.Module], z: Tensor, layout: TokenLayout) -> Tensor:
    """The sum of the convolutions, of the patch tokens on their grid and of each other token as a 1x1 image."""
    height, width, prefix, suffix = layout
    batch, tokens, channels = z.shape
    before, patches, after = z.split([prefix, tokens - prefix - suffix, suffix], dim=1)
    image = patches.transpose(1, 2).reshape(batch, channels, height, width)
    image = functools.reduce(torch.add, [convolution(image) for convolution in convolutions])
    extra = torch.cat([before, after], dim=1).reshape(-1, channels, 1, 1)
    if prefix or suffix:
        extra = functools.reduce(torch.add, [convolution(extra) for convolution in convolutions])
    before, after = extra.reshape(batch, prefix + suffix, channels).split([prefix, suffix], dim=1)
    return torch.cat([before, image.flatten(2).transpose(1, 2), after], dim=1)
