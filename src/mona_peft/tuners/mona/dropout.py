"""Dropout masks that cost little to draw on a CPU.

`torch.nn.functional.dropout` draws a 64-bit number for each element there, in one thread: as long as both projections
of the adapter take. Sixteen bits each are enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 2**16


def draw_dropped(shape: Sequence[int], p: float, device: torch.device) -> tuple[Tensor, float]:
    """Draw which elements dropout sets to zero, from PyTorch's generator of the device.

    Args:
        shape (`Sequence[int]`): Shape of the tensor to drop elements of.
        p (`float`): Probability of being dropped, in [0, 1). On a CPU it is rounded to a multiple of 2^-16.
        device (`torch.device`): Of the tensor.

    Returns:
        `tuple[Tensor, float]`: 1 for what is dropped and 0 for the rest, uint8 of that shape, and the factor for what
        is kept: 1 / (1 - p) of the p that was used, so that the expectation is exact. Arithmetic with uint8 is several
        times as fast on a CPU as with bool, or `masked_fill`.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.uint8, device=device).bernoulli_(p), 1 / (1 - p)
    count = math.prod(shape)
    threshold = min(round(p * LEVELS), LEVELS - 1)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = words.view(torch.int16)[:count] < threshold - LEVELS // 2
    return dropped.view(torch.uint8).view(shape), LEVELS / (LEVELS - threshold)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout with the masks of [`draw_dropped`]; differentiable.

    Args:
        x (`Tensor`): Any shape.
        p (`float`): Probability of being dropped.
        training (`bool`): Whether to drop anything.
    """
    if not training or p == 0:
        return x
    dropped, scale = draw_dropped(x.shape, p, x.device)
    return x * (1 - dropped) * scale
