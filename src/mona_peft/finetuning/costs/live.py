"""What a training step holds in memory, followed tensor by tensor, on tensors that may have no values at all."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mona_peft.tuners.mona.watching import watched


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations give while it is active, for as long as they live.

    Args:
        known (`Iterable[Tensor]`): Tensors that do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.history: list[int] = []  # after each operation
        self.operations: list[str] = []
        self._seen = {t.untyped_storage()._cdata for t in known}
        self._watched: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._watch(value)
        self.history.append(self.now)
        self.operations.append(str(func))
        return result

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in self._watched:
            return

        def forget(_: weakref.ref) -> None:
            self._watched.pop(key, None)
            self.now -= size

        self._watched[key] = weakref.ref(storage, forget)
        self.now += size


class StepBytes(NamedTuple):
    """Memory of a step besides weights and the optimiser's states.

    Args:
        saved (`int`): Bytes that live between forward and backward pass.
        history (`list[int]`): Bytes that live after each operation, gradients included.
        operations (`list[str]`): Their names.
    """

    saved: int
    history: list[int]
    operations: list[str]

    @property
    def peak(self) -> int:
        """The most bytes that live at once."""
        return max(self.history)


def follow_step(model: nn.Module, loss: Callable[[], Tensor]) -> StepBytes:
    """Run the forward and backward pass of a step, and follow what it holds.

    Args:
        model (`nn.Module`): Its weights do not count; it has no gradients left afterwards.
        loss (`Callable`): Gives the loss.
    """
    model.zero_grad(set_to_none=True)
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with watched(), live:
        value = loss()
        saved = live.now
        value.backward()
    model.zero_grad(set_to_none=True)
    return StepBytes(saved, live.history, live.operations)
