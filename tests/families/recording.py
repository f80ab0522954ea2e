"""What the blocks of a model were called with and gave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from tests.families.family import Family, Size, tapped_blocks


def recorded_calls(
    family: Family, model: nn.Module, sizes: tuple[Size, ...]
) -> Iterator[tuple[int, Size, Any, tuple, dict[str, Any], Tensor]]:
    """For each size and block, in the order they ran in: number, size, block, arguments and the result."""
    calls: list[tuple] = []
    handles = [
        block.register_forward_hook(
            lambda m, args, kwargs, out: calls.append((m, args, kwargs, out)), with_kwargs=True
        )
        for block in tapped_blocks(model)
    ]
    for size in sizes:
        calls.clear()
        family.call(model, size)
        assert len(calls) == family.blocks
        for number, (block, args, kwargs, output) in enumerate(calls):
            plain = {name: value for name, value in kwargs.items() if name != "tap_layout"}
            yield number, size, block, args, plain, output[0] if isinstance(output, tuple) else output
    for handle in handles:
        handle.remove()


def stream(family: Family, args: tuple) -> Tensor:
    """The residual stream that a block was called with, channels last."""
    return args[0].permute(0, 2, 3, 1) if family.arrangement == "channels_first" else args[0]
