"""How the tokens of a block call are laid out, and where that is found.

Most calls have one grid for the whole batch, a [`TokenLayout`], which is all that adapters ever see. Where rows have
grids or adapters of their own, or patches come shuffled, `apply_layout` takes the tokens apart first and puts what the
adapter gives back in place; both are exact, because an adapter treats rows apart and sees its tokens in order.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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


class RowLayout(NamedTuple):
    """Rows of a batch that have grids, or adapters, of their own.

    Args:
        groups (`tuple`): For each group its rows, the name of the only adapter to use (None for the active ones, empty
            for none) and its layout.
    """

    groups: tuple[tuple[list[int], str | None, TokenLayout | ShuffledLayout], ...]


Layout = TokenLayout | ShuffledLayout | RowLayout
Delta = Callable[[Tensor, TokenLayout], Tensor | None]

# The adapters that the rows of the current thread's batch name, and the one whose turn it is.
_chosen = threading.local()


def apply_layout(delta: Delta, hidden_states: Tensor, layout: Layout) -> Tensor | None:
    """Compute `delta` of tokens `(B, N, C)` however they are laid out.

    Args:
        delta (`Callable`): What an adapter adds to tokens with a plain layout.
        hidden_states (`Tensor`): `(B, N, C)`, or an image `(B, H, W, C)`.
        layout (`Layout`): How its tokens are laid out.
    """
    if isinstance(layout, TokenLayout):
        return delta(hidden_states, layout)
    if isinstance(layout, ShuffledLayout):
        return _apply_shuffled(delta, hidden_states, layout)
    parts = [_apply_to_rows(delta, hidden_states, *group) for group in layout.groups]
    if all(part is None for part in parts):
        return None
    order = torch.tensor([row for rows, _, _ in layout.groups for row in rows], device=hidden_states.device)
    filled = [
        torch.zeros_like(hidden_states[rows]) if part is None else part
        for part, (rows, _, _) in zip(parts, layout.groups, strict=True)
    ]
    return torch.cat(filled)[torch.argsort(order)]


def _apply_to_rows(
    delta: Delta, hidden_states: Tensor, rows: list[int], adapter: str | None, layout: TokenLayout | ShuffledLayout
) -> Tensor | None:
    if adapter == "":
        return None
    with choose_adapters(None if adapter is None else [adapter]):
        return apply_layout(delta, hidden_states[rows], layout)


def _apply_shuffled(delta: Delta, hidden_states: Tensor, shuffled: ShuffledLayout) -> Tensor | None:
    layout, places = shuffled
    first, last = layout.prefix, hidden_states.shape[1] - layout.suffix
    before, patches, after = hidden_states[:, :first], hidden_states[:, first:last], hidden_states[:, last:]
    result = delta(torch.cat([before, _gather(patches, places), after], dim=1), layout)
    if result is None:
        return None
    patches = _gather(result[:, first:last], torch.argsort(places, dim=1))
    return torch.cat([result[:, :first], patches, result[:, last:]], dim=1)


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
    return None if torch.compiler.is_compiling() else getattr(_chosen, "names", None)


@contextlib.contextmanager
def rows_choose_adapters(names: Sequence[str]) -> Iterator[None]:
    """Let each row of the batch use the adapter named for it, `"__base__"` for none.

    Args:
        names (`Sequence[str]`): A name a row.
    """
    _chosen.rows = list(names)
    try:
        with choose_adapters(sorted(set(names) - {"__base__"})):
            yield
    finally:
        _chosen.rows = None


def group_rows(layouts: Layout, batch: int) -> Layout:
    """Split a batch by the adapters its rows name, if they do.

    Args:
        layouts (`Layout`): How the tokens of the whole batch are laid out.
        batch (`int`): Number of rows.

    Raises:
        ValueError: If the number of names is not that of the rows.
    """
    names = None if torch.compiler.is_compiling() else getattr(_chosen, "rows", None)
    if names is None:
        return layouts
    if len(names) != batch:
        raise ValueError(f"adapter_names has {len(names)} names for a batch of {batch} rows; pass one for each row.")
    whole = layouts.groups if isinstance(layouts, RowLayout) else ((list(range(batch)), None, layouts),)
    groups = []
    for rows, _, layout in whole:
        for name in dict.fromkeys(names[row] for row in rows):
            mine = [row for row in rows if names[row] == name]
            groups.append((mine, "" if name == "__base__" else name, select_rows(layout, mine)))
    return RowLayout(tuple(groups))


def select_rows(layout: TokenLayout | ShuffledLayout, rows: list[int]) -> TokenLayout | ShuffledLayout:
    """The layout of some rows of a batch."""
    return layout if isinstance(layout, TokenLayout) else ShuffledLayout(layout.layout, layout.places[rows])


# What the recorders saw in this thread. torch.compile cannot trace a threading.local; while it traces, plain
# attributes carry the same values.
_thread = threading.local()


class Recorder(ABC):
    """Remembers what a module last told in this thread, for the blocks that come after it.

    Args:
        module (`nn.Module`): The module to watch.
    """

    def __init__(self, module: nn.Module) -> None:
        self.users = 0
        self.latest: Any = None
        self.handle = self.watch(module)

    @abstractmethod
    def watch(self, module: nn.Module) -> Any:
        """Register the hook that calls `keep`; gives back its handle."""

    def keep(self, value: Any) -> None:
        """Remember `value`."""
        self.latest = value
        if not torch.compiler.is_compiling():
            if not hasattr(_thread, "values"):
                _thread.values = weakref.WeakKeyDictionary()
            _thread.values[self] = value

    def value(self) -> Any:
        """What this thread last saw, or None."""
        if torch.compiler.is_compiling():
            return self.latest
        return getattr(_thread, "values", {}).get(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"latest": None}  # may hold a tensor of the last image, which nobody wants copied


class GridRecorder(Recorder):
    """Remembers the grid that a patch embedding's convolution gave.

    It also keeps the grids since the last backward pass by their number of patches: a library that checkpoints blocks
    from outside runs them again in the backward pass, when the latest grid may be another image's.
    """

    def watch(self, module: nn.Module) -> Any:
        """See `Recorder`."""
        self.seen: dict[int, set[Grid]] = {}
        self.recomputed = False
        return module.register_forward_hook(self.record)

    def record(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of the convolution."""
        grid = (output.shape[-2], output.shape[-1])
        self.keep(grid)
        if not torch.compiler.is_compiling() and torch.is_grad_enabled() and not in_backward():
            if self.recomputed:
                self.seen.clear()
                self.recomputed = False
            self.seen.setdefault(grid[0] * grid[1], set()).add(grid)

    def grid(self, patches: Sequence[int]) -> Grid | None:
        """The grid of a call with one of these numbers of patch tokens, or None.

        Raises:
            ValueError: If the call is a repetition in the backward pass and several grids have been seen.
        """
        if torch.compiler.is_compiling() or not in_backward():
            return self.value()
        self.recomputed = True
        grids = {grid for number in patches for grid in self.seen.get(number, ())}
        if len(grids) > 1:
            raise ValueError(
                f"Checkpointed blocks run again in the backward pass, and images of {sorted(grids)} patches went "
                "forward before it, so this call's grid is unknown. Run the backward pass of one size before the "
                "forward pass of the other, or train without gradient checkpointing."
            )
        return grids.pop() if grids else None


class ArgumentRecorder(Recorder):
    """Remembers an argument of a module's forward.

    Args:
        module (`nn.Module`): The module.
        argument (`str`): The argument's name.
    """

    def __init__(self, module: nn.Module, argument: str) -> None:
        self.argument = argument
        super().__init__(module)

    def watch(self, module: nn.Module) -> Any:
        """See `Recorder`."""
        self.place = argument_places(module.forward, [self.argument])[0]
        return module.register_forward_pre_hook(self.record, with_kwargs=True)

    def record(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the module."""
        self.keep(args[self.place] if self.place < len(args) else kwargs.get(self.argument))


class OrderRecorder(Recorder):
    """Remembers the last item of a module's output: where the patches of the grid went."""

    def watch(self, module: nn.Module) -> Any:
        """See `Recorder`."""
        return module.register_forward_hook(self.record)

    def record(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the module."""
        self.keep(output[-1])


def in_backward() -> bool:
    """Whether this thread is in a backward pass, where checkpointed modules run again."""
    return torch._C._current_graph_task_id() != -1


def argument_places(function: Callable, names: Sequence[str]) -> list[int]:
    """Positions of the arguments `names` in calls of the bound method `function`.

    Raises:
        ValueError: If it lacks one.
    """
    parameters = list(inspect.signature(function).parameters)
    missing = [name for name in names if name not in parameters]
    if missing:
        raise ValueError(f"has no forward argument {missing} to take the token grid from; it has {parameters}.")
    return [parameters.index(name) for name in names]
