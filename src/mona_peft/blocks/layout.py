"""How the tokens of a block call are laid out: on one grid, shuffled, or row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Grid = tuple[int, int]


class TokenLayout(NamedTuple):
    """How the tokens of one block call are laid out.

    Args:
        height (`int`): Rows of the patch grid.
        width (`int`): Columns of the patch grid.
        prefix (`int`): Tokens before the patch tokens.
        suffix (`int`): Tokens after the patch tokens.
    """

    height: int
    width: int
    prefix: int = 0
    suffix: int = 0


class ShuffledLayout(NamedTuple):
    """Patches that come in another order than the grid's.

    Args:
        layout (`TokenLayout`): The layout once they are in order.
        places (`Tensor`): For each patch of the grid where it is found among the patch tokens, `(B, H * W)`.
    """

    layout: TokenLayout
    places: Tensor


class RowGroup(NamedTuple):
    """Rows of a batch that have one grid, and the same adapters, in common.

    Args:
        rows (`list[int]`): Their numbers.
        layout (`TokenLayout` or `ShuffledLayout`): How their tokens are laid out.
        adapters (`list[str]`, *optional*): Names of the adapters to use, `[]` for none; by default the active ones.
    """

    rows: list[int]
    layout: TokenLayout | ShuffledLayout
    adapters: list[str] | None = None


class RowLayout(NamedTuple):
    """Rows of a batch that have grids, or adapters, of their own.

    Args:
        groups (`tuple[RowGroup, ...]`): Every row is in one of them.
    """

    groups: tuple[RowGroup, ...]


Layout = TokenLayout | ShuffledLayout | RowLayout
Delta = Callable[[Tensor, TokenLayout], Tensor | None]
