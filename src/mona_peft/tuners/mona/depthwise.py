"""The gradient of the depthwise kernel.

On a CPU the gradient of a depthwise convolution's weight, `sum_hw z[h+i, w+j] * dy[h, w]`, is the slowest part of
Mona: oneDNN's kernel for it reaches a tenth of the speed of its forward. But the sum is itself a depthwise
convolution, of the input with the output's gradient for a kernel as large as the grid, so the forward computes it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mona_peft.blocks.layout import TokenLayout

from .watching import is_watched

# Grids up to this size are convolved at once for all images, their channels side by side; for larger ones the copy
# that this needs costs more than a call for each image. Above the second size the kernel outgrows the cache.
SMALL_GRID = 256
LARGE_GRID = 128 * 128
STRIP = 8192


def kernel_gradient(z: Tensor, grad: Tensor, kernel: Tensor, layout: TokenLayout) -> Tensor:
    """Gradient of the kernel of [`functional.depthwise`].

    Args:
        z (`Tensor`): Its input, `(B, N, C)`.
        grad (`Tensor`): Gradient of its output, `(B, N, C)`.
        kernel (`Tensor`): `(C, 1, K, K)`.
        layout (`TokenLayout`): Of the N tokens.

    Returns:
        `Tensor`: `(C, 1, K, K)`.
    """
    height, width, prefix, suffix = layout
    stop = z.shape[1] - suffix
    size = kernel.shape[-1]
    image, grad_image = (t[:, prefix:stop].unflatten(1, (height, width)) for t in (z, grad))  # (B, H, W, C)
    on_cpu = z.device.type == "cpu" and not is_watched()
    if on_cpu and z.dtype != torch.float64 and torch.backends.mkldnn.is_available():
        # Half precision, too: with the casts it takes a sixth of the time of oneDNN's own kernel.
        grad_kernel = correlate(image.float(), grad_image.float(), size).to(z.dtype)
    else:
        grad_kernel = _convolution_backward(image, grad_image, kernel)
    centre = grad_kernel[:, 0, size // 2, size // 2]
    for extras in ([slice(0, prefix)] if prefix else []) + ([slice(stop, None)] if suffix else []):
        centre += (z[:, extras] * grad[:, extras]).sum((0, 1))
    return grad_kernel


def _convolution_backward(z: Tensor, grad: Tensor, kernel: Tensor) -> Tensor:
    channels, padding = kernel.shape[0], kernel.shape[-1] // 2
    return torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        z.permute(0, 3, 1, 2),
        kernel,
        None,
        [1, 1],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        channels,
        [False, True, False],
    )[1]


def correlate(z: Tensor, grad: Tensor, size: int) -> Tensor:
    """Gradient of a depthwise kernel as depthwise convolutions of `z` with the kernel `grad`.

    Args:
        z (`Tensor`): `(B, H, W, C)`.
        grad (`Tensor`): `(B, H, W, C)`.
        size (`int`): K.

    Returns:
        `Tensor`: `(C, 1, K, K)`.
    """
    batch, height, width, channels = z.shape
    padding = size // 2
    if batch == 1 and height * width <= LARGE_GRID:
        return _as_kernel(z, grad, (padding, padding)).view(channels, 1, size, size)
    if height * width <= SMALL_GRID:
        z, grad = (t.permute(1, 2, 0, 3).reshape(1, height, width, batch * channels) for t in (z, grad))
        return _as_kernel(z, grad, (padding, padding)).view(batch, channels, 1, size, size).sum(0)
    if height * width <= LARGE_GRID:
        parts = [_as_kernel(z[b : b + 1], grad[b : b + 1], (padding, padding)) for b in range(batch)]
    else:
        rows = max(1, STRIP // width)
        padded = F.pad(z, (0, 0, 0, 0, padding, padding))
        parts = [
            _as_kernel(padded[b : b + 1, row : row + rows + size - 1], grad[b : b + 1, row : row + rows], (0, padding))
            for b in range(batch)
            for row in range(0, height, rows)
        ]
    return torch.stack(parts).sum(0).view(channels, 1, size, size)


def _as_kernel(z: Tensor, grad: Tensor, padding: tuple[int, int]) -> Tensor:
    """Convolve the image `z` `(1, H, W, C)` with the kernel `grad` `(1, h, w, C)`, channel by channel."""
    kernel = grad[0].permute(2, 0, 1).unsqueeze(1)  # (C, 1, h, w)
    return F.conv2d(z.permute(0, 3, 1, 2), kernel, padding=padding, groups=z.shape[-1])
