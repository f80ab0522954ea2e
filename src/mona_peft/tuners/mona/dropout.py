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
    return _draw(shape, p, device), _scale(p, device)


def draw_dropped_when_traced(tokens: Tensor, channels: int, p: float) -> tuple[Tensor, float]:
    """As [`draw_dropped`], for compilers and fake tensors: on a CPU the same elements from the same seed.

    Args:
        tokens (`Tensor`): `(..., m)`, of the device.
        channels (`int`): n, of the tensor `(..., n)` to drop elements of.
        p (`float`): Probability of being dropped.
    """
    if tokens.device.type == "cpu":
        dropped = torch.ops.mona_peft.draw_dropped(tokens, channels, p)
    else:
        dropped = (torch.rand((*tokens.shape[:-1], channels), device=tokens.device) < p).to(torch.uint8)
    return dropped, _scale(p, tokens.device)


def _draw(shape: Sequence[int], p: float, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.uint8, device=device).bernoulli_(p)
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = words.view(torch.int16)[:count] < _threshold(p) - LEVELS // 2
    return dropped.view(torch.uint8).view(shape)


def _scale(p: float, device: torch.device) -> float:
    """What the rest is multiplied with."""
    return LEVELS / (LEVELS - _threshold(p)) if device.type == "cpu" else 1 / (1 - p)


def _threshold(p: float) -> int:
    return min(round(p * LEVELS), LEVELS - 1)


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


def _define_operator() -> None:
    """Make drawing an operator, which compilers keep in its place: they draw 32 bits an element, one by one."""
    name = "mona_peft::draw_dropped"
    signature = "(Tensor tokens, SymInt channels, float p) -> Tensor"
    torch.library.define(name, signature, tags=torch.Tag.nondeterministic_seeded)

    @torch.library.impl(name, "CPU")
    def draw(tokens: Tensor, channels: int, p: float) -> Tensor:
        return _draw((*tokens.shape[:-1], channels), p, tokens.device)

    @torch.library.register_fake(name)
    def fake(tokens: Tensor, channels: int, p: float) -> Tensor:
        return tokens.new_empty((*tokens.shape[:-1], channels), dtype=torch.uint8)


if not hasattr(torch.ops.mona_peft, "draw_dropped"):  # PyTorch knows it already when this is imported again
    _define_operator()
