"""Semantic segmentation of a large image window by window, as mmsegmentation's `slide` mode does it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig

#: What a model's configuration calls side and step of the windows that it was evaluated with.
WINDOWS = "sliding_windows"
#: No window is larger, pixels.
MOST = 8192


def windows_of(config: PretrainedConfig) -> tuple[int, int] | None:
    """Side and step of the windows that a segmenter was evaluated with; `None` if images were predicted whole.

    Raises:
        ValueError: If the configuration has something else there.
    """
    found = getattr(config, WINDOWS, None)
    if found is None:
        return None
    good = isinstance(found, list) and len(found) == 2 and all(type(number) is int for number in found)
    if not good or not 0 < found[1] <= found[0] <= MOST:
        raise ValueError(f"{WINDOWS} is {found!r}; it must be a side of at most {MOST} pixels and a step within it")
    return found[0], found[1]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start so that they cover `length`; the last is moved back to end with it."""
    if length <= window:
        return [0]
    count = -(-(length - window) // stride) + 1
    return [min(number * stride, length - window) for number in range(count)]


def slide_logits(model: nn.Module, pixels: Tensor, window: int, stride: int) -> Tensor:
    """Logits `(classes, H, W)` of one image, the mean over the windows that cover a pixel.

    Args:
        model (`nn.Module`): Gives `logits` of `pixel_values`.
        pixels (`Tensor`): `(3, H, W)`; sides below the window are padded for the model, and cut again.
        window (`int`): Side of the square windows, pixels.
        stride (`int`): Their step, pixels.

    Raises:
        ValueError: If the windows would leave pixels out.
    """
    if not 0 < stride <= window:
        raise ValueError(
            f"stride is {stride} and the window {window}; the stride must be from 1 to the window's side."
        )
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (0, max(0, window - width), 0, max(0, window - height)))
    total, count = None, padded.new_zeros(padded.shape[-2:])
    for top in window_starts(padded.shape[-2], window, stride):
        for left in window_starts(padded.shape[-1], window, stride):
            part = (..., slice(top, top + window), slice(left, left + window))
            logits = model(pixel_values=padded[part][None]).logits[0].float()
            if total is None:
                total = logits.new_zeros(len(logits), *padded.shape[-2:])
            total[part] += logits
            count[part] += 1
    assert total is not None
    return torch.div(total, count)[:, :height, :width]
