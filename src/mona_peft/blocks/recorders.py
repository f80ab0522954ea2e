"""What modules beside a block tell of its layout, recorded by hooks for the blocks that come after them."""

from __future__ import annotations

import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .layout import Grid

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
