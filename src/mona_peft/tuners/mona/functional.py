"""The computations of Mona as functions of tensors.

Token layout throughout: `(B, N, C)`, channels last, so that no copy is needed between linear layers and filters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mona_peft.blocks.layout import TokenLayout


def token_size(x: Tensor) -> Tensor:
    """The root mean square of each token, `(..., C)` to `(..., 1)`, in 32 bits at least; that of zero has no slope."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype) * x.shape[-1] ** -0.5


def sum_kernels(weights: Sequence[Tensor], scale: float, identity: bool) -> Tensor:
    """Add depthwise kernels of several sizes up in one of the largest size.

    The filters are linear, so `scale * (DW3 + DW5 + DW7) + identity` is one depthwise convolution.

    Args:
        weights (`Sequence[Tensor]`): Each `(C, 1, k, k)`, k odd.
        scale (`float`): Factor of the sum.
        identity (`bool`): Whether to add the kernel that gives its input back.

    Returns:
        `Tensor`: `(C, 1, K, K)`, K the largest k.
    """
    size = max(weight.shape[-1] for weight in weights)
    padded = [F.pad(weight, 4 * [(size - weight.shape[-1]) // 2]) for weight in weights]
    # Not stacked and summed: the gradients would be views of one memory, which PyTorch takes as they are for `.grad`,
    # and the next backward pass would add to all of them at once.
    kernel = scale * functools.reduce(torch.add, padded)
    if identity:
        kernel = kernel + F.pad(kernel.new_ones(1, 1), 4 * [size // 2])
    return kernel


def depthwise(z: Tensor, kernel: Tensor, bias: Tensor | None, layout: TokenLayout) -> Tensor:
    """Depthwise convolution of the patch tokens on their grid; each extra token is a 1x1 grid of its own.

    With zero padding only the centre tap acts on a 1x1 grid.

    Args:
        z (`Tensor`): `(B, N, C)`, N = prefix + height * width + suffix.
        kernel (`Tensor`): `(C, 1, K, K)`.
        bias (`Tensor`, *optional*): `(C,)`.
        layout (`TokenLayout`): Of the N tokens.
    """
    height, width, prefix, suffix = layout
    size = kernel.shape[-1]
    batch, tokens, channels = z.shape
    patches = z[:, prefix : tokens - suffix] if prefix or suffix else z
    image = patches.reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # (B, C, H, W), a view
    filtered = F.conv2d(image, kernel, bias, padding=size // 2, groups=channels)
    filtered = filtered.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    if not (prefix or suffix):
        return filtered
    tap = kernel[:, 0, size // 2, size // 2]

    def alone(extras: Tensor) -> Tensor:
        return extras * tap if bias is None else torch.addcmul(bias, extras, tap)

    before = [alone(z[:, :prefix])] if prefix else []
    after = [alone(z[:, tokens - suffix :])] if suffix else []
    return torch.cat([*before, filtered, *after], dim=1)


def convolve(convolution: Callable[[Tensor], Tensor], z: Tensor, layout: TokenLayout) -> Tensor:
    """Let a module filter the patch tokens on their grid, and each extra token as a 1x1 image.

    Args:
        convolution (`Callable`): `(B, C, H, W)` to the same shape.
        z (`Tensor`): `(B, N, C)`.
        layout (`TokenLayout`): Of the N tokens.
    """
    height, width, prefix, suffix = layout
    batch, tokens, channels = z.shape
    before, patches, after = z.split([prefix, tokens - prefix - suffix, suffix], dim=1)
    image = patches.reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # (B, C, H, W), a view
    filtered = convolution(image).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    if not (prefix or suffix):
        return filtered
    extras = torch.cat([before, after], dim=1).reshape(batch * (prefix + suffix), channels, 1, 1)
    before, after = convolution(extras).view(batch, prefix + suffix, channels).split([prefix, suffix], dim=1)
    return torch.cat([before, filtered, after], dim=1)


def pointwise_matrix(weight: Tensor, skip: bool) -> Tensor:
    """The matrix of a 1x1 convolution `(n, n, 1, 1)`, with `skip` that of `z + PW(z)`."""
    matrix = weight[:, :, 0, 0]
    if skip:
        matrix = matrix + torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    return matrix


def pointwise(z: Tensor, weight: Tensor, bias: Tensor | None, skip: bool) -> Tensor:
    """1x1 convolution `PW(z)`, or `z + PW(z)` as one product, on tokens `(B, N, C)`."""
    return F.linear(z, pointwise_matrix(weight, skip), bias)
