"""The depthwise filter and the gradient of its kernel as Triton kernels, for a GPU; see [`use_triton`].

A program walks down a strip of columns of an image, row by row. What K rows share stays in registers: the K output
rows that an input row adds to, or the K rows of the output's gradient that it meets. So an element is fetched K times
from the nearest cache, not K * K times, and once from memory but for the strips' edges. An image's first strip sees to
its extra tokens, too. Sums are float32, in an order that the shapes alone determine. Offsets have 64 bits.
"""

# mypy: disable-error-code="assignment, var-annotated"
# In the kernels, tuples grow while Triton unrolls a loop.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.mona import functional
from mona_peft.tuners.mona.depthwise import kernel_gradient as plain_kernel_gradient

BLOCK = {"COLUMNS": 8, "CHANNELS": 32}  # of a program
WARPS = 4  # two elements a thread: its registers hold K * K values for each of two channels, and not many more
ROWS = 32  # of a strip, at most
PROGRAMS = 1024  # among which the kernel gradient is split, about; each leaves a partial sum
SIZES = (1, 3, 5, 7)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_jit = triton.jit(do_not_specialize=["batch", "height", "width", "prefix", "extras", "rows", "groups"])


@triton.jit
def _strip(height, width, rows, COLUMNS: tl.constexpr):
    """Find this program's strip.

    Returns:
        Number of the image or group of images, of the strip in it, the strip's first row, the row after its last, its
        columns `(COLUMNS, 1)`.
    """
    across = tl.cdiv(width, COLUMNS)
    strips = across * tl.cdiv(height, rows)
    strip = tl.program_id(0) % strips
    top = strip // across * rows
    columns = strip % across * COLUMNS + tl.arange(0, COLUMNS)[:, None].to(tl.int64)
    return tl.program_id(0) // strips, strip, top, tl.minimum(top + rows, height), columns


@triton.jit
def _repeat(value, count: tl.constexpr):
    values = ()
    for _ in tl.static_range(count):
        values = values + (value,)
    return values


@triton.jit
def _load_row(grid, row, columns, top, bottom, width, stride, valid):
    """A row's elements at `columns` as float32, zero outside the rows from `top` and the grid's width."""
    valid = valid & (row >= top) & (row < bottom) & (columns >= 0) & (columns < width)
    return tl.load(grid + (row * width + columns) * stride, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def _extra_tokens(first, prefix, extras, patches, COLUMNS: tl.constexpr):
    """The tokens outside the grid from the `first` of them on: their numbers, and whether there are so many."""
    extra = first + tl.arange(0, COLUMNS)[:, None].to(tl.int64)
    return tl.where(extra < prefix, extra, extra + patches), extra < extras


@_jit
def filter_kernel(
    z,
    taps,
    bias,
    out,
    height,
    width,
    prefix,
    extras,
    rows,
    channels,
    z_image,
    z_token,
    z_channel,
    SIZE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Filter a strip. `taps` is `(K * K, C)`, `out` contiguous; `bias` is not read without `HAS_BIAS`."""
    HALF: tl.constexpr = SIZE // 2
    image, strip, top, bottom, columns = _strip(height, width, rows, COLUMNS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    valid = channel < channels
    patches = height * width
    z += tl.cast(image, tl.int64) * z_image + channel.to(tl.int64) * z_channel
    out += tl.cast(image, tl.int64) * (patches + extras) * channels + channel
    grid = z + prefix.to(tl.int64) * z_token

    weights = ()
    for tap in tl.static_range(SIZE * SIZE):
        weights = weights + (tl.load(taps + tap * channels + channel, mask=valid, other=0.0).to(tl.float32),)
    start = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    if HAS_BIAS:
        start += tl.load(bias + channel, mask=valid, other=0.0).to(tl.float32)
    sums = _repeat(start, SIZE)  # of the output rows row - HALF to row + HALF

    for row in range(top - HALF, bottom + HALF):
        for j in tl.static_range(SIZE):
            value = _load_row(grid, row, columns + (j - HALF), 0, height, width, z_token, valid)
            added = ()
            for i in tl.static_range(SIZE):
                added = added + (sums[i] + value * weights[(SIZE - 1 - i) * SIZE + j],)
            sums = added
        done = row - HALF
        place = out + (prefix + done * width + columns) * channels
        tl.store(place, sums[0].to(out.dtype.element_ty), mask=valid & (done >= top) & (columns < width))
        sums = sums[1:] + (start,)

    for first in range(0, extras if strip == 0 else 0, COLUMNS):
        token, exists = _extra_tokens(first, prefix, extras, patches, COLUMNS)
        value = tl.load(z + token * z_token, mask=valid & exists, other=0.0).to(tl.float32)
        value = start + value * weights[SIZE * HALF + HALF]
        tl.store(out + token * channels, value.to(out.dtype.element_ty), mask=valid & exists)


@_jit
def gradient_kernel(
    z,
    grad,
    partial,
    batch,
    height,
    width,
    prefix,
    extras,
    rows,
    groups,
    channels,
    z_image,
    z_token,
    z_channel,
    grad_image,
    grad_token,
    grad_channel,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum `z * grad` for every tap over a strip of every `groups`-th image, to `partial` `(programs, K * K, C)`."""
    HALF: tl.constexpr = SIZE // 2
    group, strip, top, bottom, columns = _strip(height, width, rows, COLUMNS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    valid = channel < channels
    patches = height * width
    zeros = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    sums = _repeat(zeros, SIZE * SIZE)  # for column j and row i of the kernel at j * SIZE + i
    centre = zeros

    for image in range(group, batch, groups):
        z_tokens = z + tl.cast(image, tl.int64) * z_image + channel.to(tl.int64) * z_channel
        grad_tokens = grad + tl.cast(image, tl.int64) * grad_image + channel.to(tl.int64) * grad_channel
        grid, grad_grid = z_tokens + prefix.to(tl.int64) * z_token, grad_tokens + prefix.to(tl.int64) * grad_token
        window = _repeat(zeros, SIZE)  # rows row - HALF to row + HALF of the gradient, of the strip's own
        for row in range(top - HALF, bottom + HALF):
            window = window[1:] + (_load_row(grad_grid, row + HALF, columns, top, bottom, width, grad_token, valid),)
            added = ()
            for j in tl.static_range(SIZE):
                value = _load_row(grid, row, columns + (j - HALF), 0, height, width, z_token, valid)
                for i in tl.static_range(SIZE):
                    added = added + (sums[j * SIZE + i] + value * window[SIZE - 1 - i],)
            sums = added
        for first in range(0, extras if strip == 0 else 0, COLUMNS):
            token, exists = _extra_tokens(first, prefix, extras, patches, COLUMNS)
            value = tl.load(z_tokens + token * z_token, mask=valid & exists, other=0.0).to(tl.float32)
            centre += value * tl.load(grad_tokens + token * grad_token, mask=valid & exists, other=0.0).to(tl.float32)

    partial += tl.program_id(0).to(tl.int64) * SIZE * SIZE * channels + channel
    for i in tl.static_range(SIZE):
        for j in tl.static_range(SIZE):
            total = sums[j * SIZE + i]
            if i == HALF and j == HALF:
                total += centre
            tl.store(partial + (i * SIZE + j) * channels, tl.sum(total, axis=0)[None, :], mask=valid)


# Whether the kernels run in Triton's interpreter (TRITON_INTERPRET=1), which takes tensors of any device.
INTERPRETED = not isinstance(filter_kernel, triton.runtime.JITFunction)


def fits(z: Tensor, kernel: Tensor) -> bool:
    """Whether the kernels take these: on a GPU, float32 or half precision, K of 1, 3, 5 or 7."""
    return (INTERPRETED or z.is_cuda) and z.dtype in DTYPES and kernel.shape[-1] in SIZES


def depthwise(z: Tensor, kernel: Tensor, bias: Tensor | None, layout: TokenLayout) -> Tensor:
    """Compute [`functional.depthwise`], here where [`fits`] allows it and there otherwise; not differentiable here.

    Args:
        z (`Tensor`): `(B, N, C)`, N = prefix + height * width + suffix; any strides.
        kernel (`Tensor`): `(C, 1, K, K)`.
        bias (`Tensor`, *optional*): `(C,)`.
        layout (`TokenLayout`): Of the N tokens.

    Returns:
        `Tensor`: `(B, N, C)`, contiguous, in the type of `z`.

    Raises:
        ValueError: If the shapes do not agree.
    """
    if not fits(z, kernel):
        return functional.depthwise(z, kernel, bias, layout)
    _check(z, kernel, layout)
    if bias is not None and bias.shape != z.shape[2:]:
        raise ValueError(f"The bias's shape {tuple(bias.shape)} must be ({z.shape[2]},).")
    out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    if out.numel() == 0:
        return out
    sizes, strips, blocks = _split(z, layout)
    taps = kernel.flatten(1).t().contiguous()  # (K * K, C)
    constants: dict[str, object] = {**BLOCK, "SIZE": kernel.shape[-1], "HAS_BIAS": bias is not None}
    bias = taps if bias is None else bias.contiguous()
    with torch.cuda.device_of(z):
        filter_kernel[(z.shape[0] * strips, blocks)](
            z, taps, bias, out, *sizes, z.shape[2], *z.stride(), **constants, num_warps=WARPS
        )
    return out


def kernel_gradient(z: Tensor, grad: Tensor, kernel: Tensor, layout: TokenLayout) -> Tensor:
    """Compute [`depthwise.kernel_gradient`], here where [`fits`] allows it and there otherwise.

    Args:
        z (`Tensor`): `(B, N, C)`, any strides.
        grad (`Tensor`): `(B, N, C)`, any strides.
        kernel (`Tensor`): `(C, 1, K, K)`.
        layout (`TokenLayout`): Of the N tokens.

    Returns:
        `Tensor`: `(C, 1, K, K)`, in the type of `kernel`; the same bits every time.

    Raises:
        ValueError: If the shapes do not agree.
    """
    if not fits(z, kernel):
        return plain_kernel_gradient(z, grad, kernel, layout)
    _check(z, kernel, layout)
    if grad.shape != z.shape:
        raise ValueError(f"The gradient's shape {tuple(grad.shape)} must be that of z, {tuple(z.shape)}.")
    if z.numel() == 0:
        return torch.zeros_like(kernel)
    batch, _, channels = z.shape
    sizes, strips, blocks = _split(z, layout)
    groups = min(batch, triton.cdiv(PROGRAMS, strips * blocks))
    size = kernel.shape[-1]
    partial = z.new_empty(groups * strips, size * size, channels, dtype=torch.float32)
    with torch.cuda.device_of(z):
        gradient_kernel[(groups * strips, blocks)](
            *(z, grad, partial, batch, *sizes, groups, channels, *z.stride(), *grad.stride()),
            **BLOCK,
            SIZE=size,
            num_warps=WARPS,
        )
    return partial.sum(0).t().reshape(kernel.shape).to(kernel.dtype)


def _split(z: Tensor, layout: TokenLayout) -> tuple[tuple[int, ...], int, int]:
    """Height, width, prefix, extra tokens and rows of a strip; the strips of an image; the blocks of channels."""
    height, width, prefix, suffix = layout
    rows = triton.cdiv(height, triton.cdiv(height, ROWS))  # strips of the same height but for the last
    strips = triton.cdiv(width, BLOCK["COLUMNS"]) * triton.cdiv(height, rows)
    return (height, width, prefix, prefix + suffix, rows), strips, triton.cdiv(z.shape[2], BLOCK["CHANNELS"])


def _check(z: Tensor, kernel: Tensor, layout: TokenLayout) -> None:
    """Refuse what would have the kernels read beyond a tensor's end."""
    tokens = layout.height * layout.width + layout.prefix + layout.suffix
    if z.shape[1] != tokens:
        raise ValueError(f"z has {z.shape[1]} tokens, but {layout} has {tokens}.")
    if kernel.shape != (z.shape[2], 1, kernel.shape[-1], kernel.shape[-1]):
        raise ValueError(f"The kernel's shape {tuple(kernel.shape)} must be ({z.shape[2]}, 1, K, K).")
