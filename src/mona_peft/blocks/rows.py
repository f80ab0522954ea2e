"""Adapters and the layouts they do not see: rows with grids or adapters of their own, shuffled and packed patches.

Most calls have one grid for the whole batch, a [`TokenLayout`], which is all that adapters ever see. Where rows have
grids or adapters of their own, or patches come shuffled or packed, `apply_layout` takes the tokens apart first and
puts what the adapter gives back in place; both are exact, because an adapter treats rows apart and sees its tokens in
order.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .layout import Delta, Layout, PackedLayout, RowGroup, RowLayout, ShuffledLayout, TokenLayout, UnrolledLayout
from .sequences import roll, unroll

# The adapters that the rows of the current thread's batch name, and the one whose turn it is.
_chosen = threading.local()


class _Naming:
    """How many threads run batches whose rows name adapters: all that compiled code can know of them."""

    threads = 0


_naming = _Naming()


def apply_layout(delta: Delta, hidden_states: Tensor, layout: Layout) -> Tensor | None:
    """Compute `delta` of tokens `(B, N, C)` however they are laid out.

    Args:
        delta (`Callable`): What an adapter adds to tokens with a plain layout.
        hidden_states (`Tensor`): `(B, N, C)`, an image `(B, H, W, C)`, or a packed sequence `(N, C)`.
        layout (`Layout`): How its tokens are laid out.
    """
    if isinstance(layout, TokenLayout):
        return delta(hidden_states, layout)
    if isinstance(layout, ShuffledLayout):
        return _apply_shuffled(delta, hidden_states, layout)
    if isinstance(layout, UnrolledLayout):
        result = delta(*roll(hidden_states, layout))
        return None if result is None else unroll(result, layout)
    if isinstance(layout, PackedLayout):
        return _apply_packed(delta, hidden_states, layout)
    parts = [_apply_to_rows(delta, hidden_states, group) for group in layout.groups]
    if all(part is None for part in parts):
        return None
    order = torch.tensor([row for group in layout.groups for row in group.rows], device=hidden_states.device)
    filled = [
        torch.zeros_like(hidden_states[group.rows]) if part is None else part
        for part, group in zip(parts, layout.groups, strict=True)
    ]
    return torch.cat(filled)[torch.argsort(order)]


def _apply_to_rows(delta: Delta, hidden_states: Tensor, group: RowGroup) -> Tensor | None:
    if group.adapters == []:
        return None
    with choose_adapters(group.adapters):
        return apply_layout(delta, hidden_states[group.rows], group.layout)


def _apply_shuffled(delta: Delta, hidden_states: Tensor, shuffled: ShuffledLayout) -> Tensor | None:
    layout, places = shuffled
    first, last = layout.prefix, hidden_states.shape[1] - layout.suffix
    before, patches, after = hidden_states[:, :first], hidden_states[:, first:last], hidden_states[:, last:]
    result = delta(torch.cat([before, _gather(patches, places), after], dim=1), layout)
    if result is None:
        return None
    patches = _gather(result[:, first:last], torch.argsort(places, dim=1))
    return torch.cat([result[:, :first], patches, result[:, last:]], dim=1)


def _apply_packed(delta: Delta, hidden_states: Tensor, packed: PackedLayout) -> Tensor | None:
    found = [delta(hidden_states[group.places], group.layout) for group in packed.groups]
    parts = [part.flatten(0, 1) for part in found if part is not None]
    return torch.cat(parts)[packed.inverse] if parts else None


def _gather(tokens: Tensor, places: Tensor) -> Tensor:
    return torch.gather(tokens, 1, places[..., None].expand(-1, -1, tokens.shape[-1]))


@contextlib.contextmanager
def choose_adapters(names: Sequence[str] | None) -> Iterator[None]:
    """Use these adapters in this thread instead of the active ones; None leaves the choice as it is."""
    previous = chosen_adapters()
    _chosen.names = previous if names is None else list(names)
    try:
        yield
    finally:
        _chosen.names = previous


def chosen_adapters() -> list[str] | None:
    """The adapters to use instead of the active ones, or None."""
    if not torch.compiler.is_compiling():
        return getattr(_chosen, "names", None)
    if _naming.threads:
        _refuse_names_in_compiled_code()
    return None


@torch.compiler.disable
def _refuse_names_in_compiled_code() -> None:
    if getattr(_chosen, "rows", None) is not None:
        raise RuntimeError(
            f"adapter_names={_chosen.rows!r} has no effect in a compiled model. Call the model that was given to "
            "torch.compile, or set `torch.compiler.set_stance('force_eager')` for the call."
        )


@contextlib.contextmanager
def rows_choose_adapters(names: Sequence[str]) -> Iterator[None]:
    """Let each row of the batch use the adapter named for it, `"__base__"` for none.

    Args:
        names (`Sequence[str]`): A name a row.
    """
    previous, _chosen.rows = getattr(_chosen, "rows", None), list(names)
    _naming.threads += 1
    try:
        with choose_adapters(sorted(set(names) - {"__base__"})):
            yield
    finally:
        _chosen.rows = previous
        _naming.threads -= 1


def group_rows(layouts: Layout, batch: int) -> Layout:
    """Split a batch by the adapters its rows name, if they do.

    Args:
        layouts (`Layout`): How the tokens of the whole batch are laid out.
        batch (`int`): Number of rows.

    Raises:
        ValueError: If the number of names is not that of the rows, or the images are packed into one sequence.
    """
    names = None if torch.compiler.is_compiling() else getattr(_chosen, "rows", None)
    if names is None:
        return layouts
    if isinstance(layouts, PackedLayout):
        raise ValueError(
            f"adapter_names={names!r} cannot be used with images packed into one sequence, which has no rows to name. "
            "Call the model once for each adapter."
        )
    if len(names) != batch:
        raise ValueError(f"adapter_names has {len(names)} names for a batch of {batch} rows; pass one for each row.")
    whole = layouts.groups if isinstance(layouts, RowLayout) else (RowGroup(list(range(batch)), layouts),)
    groups = []
    for group in whole:
        for name in dict.fromkeys(names[row] for row in group.rows):
            rows = [row for row in group.rows if names[row] == name]
            adapters = [] if name == "__base__" else [name]
            groups.append(RowGroup(rows, select_rows(group.layout, [group.rows.index(row) for row in rows]), adapters))
    return RowLayout(tuple(groups))


def on_grid(layouts: Layout, height: int, width: int) -> Layout:
    """The same groups of rows on another grid: that of the image a convolutional block gives.

    Args:
        layouts (`Layout`): Of the image the block was given, without extra tokens.
        height (`int`): Rows of the other grid.
        width (`int`): Its columns.
    """
    layout = TokenLayout(height, width)
    if not isinstance(layouts, RowLayout):
        return layout
    return RowLayout(tuple(group._replace(layout=layout) for group in layouts.groups))


def select_rows(
    layout: TokenLayout | ShuffledLayout | UnrolledLayout, rows: list[int]
) -> TokenLayout | ShuffledLayout | UnrolledLayout:
    """The layout of some rows of a batch."""
    return ShuffledLayout(layout.layout, layout.places[rows]) if isinstance(layout, ShuffledLayout) else layout
