"""What modules outside a block tell of its layout, recorded by hooks for the blocks that come after them.

What is told belongs to the tensor that comes of it: the output of the embedding, then the input and the output of
every adapted block. A block that runs again, in a backward pass or on tokens kept from before, finds it by its input.
Where other operations stand between the embedding and the block, what was told last counts, as long as that is sure.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

Fits = Callable[[Any], bool]


@dataclass
class _Told:
    """What was told since a block last asked.

    Args:
        values (`list`): Different values, the latest last.
        asked (`bool`): Whether a block has asked since the latest.
        askers (`set[int]`): Which blocks have.
        ever (`dict[tuple, None]`): All grids that were ever told; tensors are not kept.
        task (`int`): The backward pass in which the latest was told; -1 for none.
    """

    values: list[object] = field(default_factory=list)
    asked: bool = True
    askers: set[int] = field(default_factory=set)
    ever: dict[tuple, None] = field(default_factory=dict)
    task: int = -1

    def add(self, value: object) -> None:
        """Take in a value; those that blocks have asked for are over."""
        self.values = _with([] if self.asked else self.values, value)
        self.asked = False
        self.askers.clear()
        if isinstance(value, tuple) and all(type(item) is int for item in value):
            self.ever[value] = None


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.told: weakref.WeakKeyDictionary[Recorder, _Told] = weakref.WeakKeyDictionary()


_thread = _ThreadState()


class Recorder(ABC):
    """Knows what a module told, and for which tensors.

    Copies of a model, and copies that PEFT makes of the module, share the recorder: what it knows is told apart by
    tensors and threads.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple, tuple[StorageWeakRef, object]] = {}
        self._seen: list[object] = []  # in forward passes with gradients, since the last backward pass
        self._seen_is_over = False
        # torch.compile does not trace threads, storages or weak references: in compiled code plain attributes do.
        self._latest: tuple = ()
        self._asked = True
        self._compiled = False

    @abstractmethod
    def watch(self, module: nn.Module) -> None:
        """Register the hooks that call `keep` and `mark` on the module that tells."""

    def mark(self, module: nn.Module, args: object, output: object) -> None:
        """Forward hook of the embedding: its output is what the value just told belongs to."""
        if not torch.compiler.is_compiling() and not self._told().asked:
            for tensor in _tensors_of(output):
                self._remember(tensor, self._told().values[-1])

    def keep(self, value: object) -> None:
        """Record that the module told `value`."""
        compiling = torch.compiler.is_compiling()
        self._latest = (value,) if self._asked else (*self._latest, value)[-2:]
        self._asked, self._compiled = False, compiling
        if compiling:
            return
        self._told().add(value)
        self._told().task = torch._C._current_graph_task_id()
        if torch.is_grad_enabled() and not in_backward():
            self._seen = _with([] if self._seen_is_over else self._seen, value)
            self._seen_is_over = False
        for key, (storage, _) in list(self._tensors.items()):
            if storage.expired():
                self._tensors.pop(key, None)

    def value(self, hidden_states: Tensor, asker: int, fits: Fits = lambda value: True) -> Any:
        """What was told for the tokens `hidden_states`; None if nothing was.

        Args:
            hidden_states (`Tensor`): The input of a block.
            asker (`int`): Tells the block from others.
            fits (`Callable`): Whether a value can belong to them.

        Raises:
            ValueError: If it cannot be known, as several values may be meant.
        """
        if torch.compiler.is_compiling():
            return self._choose(self._ask(), fits)
        self._seen_is_over = self._seen_is_over or in_backward()
        value = self._recall(hidden_states)
        if value is None:
            value = self._choose(self._candidates(asker), fits)
            self._remember(hidden_states, value)
        self.pass_by()
        self._told().askers.add(asker)
        return value

    def pass_by(self) -> None:
        """Note that a block came to run on what was told, whether or not it asks for it."""
        self._asked = True
        if not torch.compiler.is_compiling():
            self._told().asked = True

    def follow(self, hidden_states: Tensor, output: object) -> None:
        """What was told for a block's input belongs to its output as well."""
        value = None if torch.compiler.is_compiling() else self._recall(hidden_states)
        if value is not None:
            for tensor in _tensors_of(output)[:1]:
                self._remember(tensor, value)

    def tells_as(self, other: Recorder) -> bool:
        """Whether this one on the same module would make `other` superfluous."""
        return type(self) is type(other)

    def _told(self) -> _Told:
        return _thread.told.setdefault(self, _Told())

    def _ask(self) -> Sequence[object]:
        self._asked = True
        return self._latest

    def _candidates(self, asker: int) -> Sequence[object]:
        """The values that may belong to tokens of which nothing is known.

        A block that has had the tokens of the latest image may get those of any image next.
        """
        if self._compiled:  # the embedding alone is compiled
            return self._ask()
        told = self._told()
        if not in_backward():
            return [*told.ever, *told.values] if asker in told.askers else told.values
        ran_again = told.task == torch._C._current_graph_task_id()
        return told.values if ran_again else self._seen

    def _choose(self, values: Sequence[object], fits: Fits) -> object:
        if len(values) < 2:
            return values[0] if values else None
        fitting: list[object] = []
        for value in values:
            fitting = _with(fitting, value) if fits(value) else fitting
        if len(fitting) > 1:
            self.pass_by()
            raise ValueError(self._ambiguity(fitting))
        return fitting[0] if fitting else values[-1]

    def _ambiguity(self, values: list[Any]) -> str:
        what = f"images of {sorted(values)} patches" if isinstance(values[0], tuple) else "several batches"
        if in_backward():
            return (
                f"Checkpointed blocks run again in the backward pass, and {what} went forward before it, so this "
                "call's layout is unknown. Run the backward pass of one size before the forward pass of the other, "
                "or train without gradient checkpointing."
            )
        return (
            f"The layout of this call is unknown: {what} were embedded before it. Run the blocks on one batch before "
            "the next one is embedded, or call the whole model."
        )

    def _recall(self, tensor: Tensor) -> object:
        return self._tensors.get(_identity(tensor), (None, None))[1]

    def _remember(self, tensor: Tensor, value: object) -> None:
        key = _identity(tensor)
        if key and value is not None:
            self._tensors[key] = (StorageWeakRef(tensor.untyped_storage()), value)

    def __deepcopy__(self, memo: dict) -> Recorder:
        return self

    def __reduce__(self) -> tuple:
        return type(self), ()


def in_backward() -> bool:
    """Whether this thread is in a backward pass, where checkpointed modules run again."""
    return torch._C._current_graph_task_id() != -1


def _identity(tensor: Tensor) -> tuple:
    """What a tensor has in common with the copies of it that checkpointing makes, and with no other; empty if unknown.

    Writing into a tensor changes it, except where PyTorch does not count that (inference mode).
    """
    try:
        storage = tensor.untyped_storage()._cdata
        version = 0 if tensor.is_inference() else tensor._version
        return storage, version, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    except (NotImplementedError, RuntimeError):  # tensors of torch.func have no storage
        return ()


def _tensors_of(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    items = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [item for item in items if isinstance(item, Tensor)]


def _with(values: Sequence[object], value: object) -> list[object]:
    """The different ones of `values` and `value`, the latest last; of tensors two, enough to know that they differ."""
    others = [other for other in values if not _same(other, value)]
    return [*(others[-1:] if isinstance(value, Tensor) else others), value]


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and torch.equal(one, other))
    return one is other or (type(one) is type(other) and one == other)
