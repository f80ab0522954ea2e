"""Sequences in which patches are not row by row: Hiera's, and the packed ones of Qwen's vision towers.

Hiera (Ryali et al., ICML 2023) stores its tokens so that pooling is a maximum over the first axis of a view; the order
follows from the strides alone. Qwen2-VL stores squares of patches that are merged after the last block one
after another, and Qwen2.5-VL the squares of a window of attention.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .layout import PackedGroup, PackedLayout, TokenLayout, UnrolledLayout


def roll(tokens: Tensor, layout: UnrolledLayout) -> tuple[Tensor, TokenLayout]:
    """Put unrolled tokens `(B, N, C)` row by row; gives their grid too.

    Fewer tokens than the grid has were pooled by the first steps.
    """
    layout = _pooled(layout, tokens.shape[1])
    batch, number, channels = tokens.shape
    shape, axes = _axes(layout)
    rolled = tokens.reshape(batch, *shape, channels).permute(0, *axes, -1)
    return rolled.reshape(batch, number, channels), TokenLayout(layout.height, layout.width)


def unroll(tokens: Tensor, layout: UnrolledLayout) -> Tensor:
    """Put tokens `(B, N, C)` that are row by row into the order of [`roll`]'s input."""
    batch, number, channels = tokens.shape
    shape, axes = _axes(_pooled(layout, number))
    back = [axes.index(axis) + 1 for axis in sorted(axes)]
    split = tokens.reshape(batch, *(shape[axis - 1] for axis in axes), channels)
    return split.permute(0, *back, -1).reshape(batch, number, channels)


def _pooled(layout: UnrolledLayout, tokens: int) -> UnrolledLayout:
    """The layout once as many steps have pooled as leave this many tokens."""
    height, width, strides = layout
    while height * width > tokens and strides:
        height, width, strides = height // strides[0][0], width // strides[0][1], strides[1:]
    return UnrolledLayout(height, width, strides)


def _axes(layout: UnrolledLayout) -> tuple[list[int], list[int]]:
    """Axes into which the sequence splits, and their numbers from 1 in the order of the grid.

    A step of stride s takes a row y apart into y // s, which the next steps take further, and y % s.
    """
    rows, columns = layout.height, layout.width
    shape: list[int] = []
    for high, wide in layout.strides:
        shape += [high, wide]
        rows, columns = rows // high, columns // wide
    shape += [rows, columns]
    last = len(shape) - 1
    return shape, [*range(last, 0, -2), *range(last + 1, 1, -2)]


def packed_layout(grids: Sequence[Sequence[int]], merge: int, window: int, device: torch.device) -> PackedLayout:
    """The layout of a sequence of images, or of videos, each frame of which is an image.

    Args:
        grids (`Sequence[Sequence[int]]`): Time, height and width of each, in patches.
        merge (`int`): Side of the squares that stand together.
        window (`int`): Side of the windows that stand together, in squares; 0 for none.
        device (`torch.device`): Of the tokens.
    """
    frames, inverse = _pack(tuple((int(t), int(h), int(w)) for t, h, w in grids), merge, window)
    groups = tuple(PackedGroup(layout, torch.tensor(places, device=device)) for layout, places in frames.items())
    return PackedLayout(groups, torch.tensor(inverse, device=device))


# Arrays and not tensors are kept: a tensor made in inference mode, or while tracing, could not be used outside it.
@functools.lru_cache(maxsize=16)
def _pack(
    grids: tuple[tuple[int, ...], ...], merge: int, window: int
) -> tuple[dict[TokenLayout, np.ndarray], np.ndarray]:
    """By grid the places `(images, H * W)` of [`PackedGroup`], and the inverse of [`PackedLayout`]."""
    frames: dict[TokenLayout, list[list[int]]] = {}
    start = 0
    for time, height, width in grids:
        places = _places(height, width, merge, window)
        for _ in range(time):
            frames.setdefault(TokenLayout(height, width), []).append([start + place for place in places])
            start += height * width
    order = _inverse([place for images in frames.values() for places in images for place in places])
    return {layout: np.array(images) for layout, images in frames.items()}, np.array(order)


def _places(height: int, width: int, merge: int, window: int) -> list[int]:
    """Where an image's sequence holds each patch of its grid, row by row, `H * W` of them."""
    side = merge * (window or max(height, width))

    def before(patch: int) -> tuple[int, ...]:
        y, x = divmod(patch, width)
        return y // side, x // side, y // merge, x // merge, y, x

    return _inverse(sorted(range(height * width), key=before))


def _inverse(numbers: list[int]) -> list[int]:
    """At each number its place among the numbers from 0."""
    places = [0] * len(numbers)
    for place, number in enumerate(numbers):
        places[number] = place
    return places
