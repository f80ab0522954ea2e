"""How the tokens of a block call are laid out: on one grid, shuffled, row by row, or packed."""

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


class UnrolledLayout(NamedTuple):
    """Patches in the order in which Hiera pools them: those that one pooling step joins stand farthest apart.

    Args:
        height (`int`): Rows of the patch grid, before the block pools it.
        width (`int`): Its columns.
        strides (`tuple[tuple[int, int], ...]`): Of each step still to come, the one to come first, first.
    """

    height: int
    width: int
    strides: tuple[tuple[int, int], ...]


class RowGroup(NamedTuple):
    """Rows of a batch that have one grid, and the same adapters, in common.

    Args:
        rows (`list[int]`): Their numbers.
        layout (`TokenLayout`, `ShuffledLayout` or `UnrolledLayout`): How their tokens are laid out.
        adapters (`list[str]`, *optional*): Names of the adapters to use, `[]` for none; by default the active ones.
    """

    rows: list[int]
    layout: TokenLayout | ShuffledLayout | UnrolledLayout
    adapters: list[str] | None = None


class RowLayout(NamedTuple):
    """Rows of a batch that have grids, or adapters, of their own.

    Args:
        groups (`tuple[RowGroup, ...]`): Every row is in one of them.
    """

    groups: tuple[RowGroup, ...]


class PackedGroup(NamedTuple):
    """Images of one grid in a packed sequence.

    Args:
        layout (`TokenLayout`): Of each of them.
        places (`Tensor`): Where the sequence holds each patch of each image, row by row, `(images, H * W)`.
    """

    layout: TokenLayout
    places: Tensor


class PackedLayout(NamedTuple):
    """Patches of several images in one sequence `(N, C)`.

    Args:
        groups (`tuple[PackedGroup, ...]`): Every patch is in one of them.
        inverse (`Tensor`): For each place of the sequence, its number in the groups put one after another, `(N,)`.
    """

    groups: tuple[PackedGroup, ...]
    inverse: Tensor


Layout = TokenLayout | ShuffledLayout | UnrolledLayout | RowLayout | PackedLayout
Delta = Callable[[Tensor, TokenLayout], Tensor | None]
