"""One running forward of a tapped block."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .adapter import ResidualAdapter
from .layout import Delta, Layout, TokenLayout
from .rows import apply_layout

# The stack of blocks the current thread is running. torch.compile cannot trace a threading.local; while it traces, a
# plain attribute of the block carries the same.
_thread = threading.local()


class Call:
    """What the hooks of a running forward need, and what they leave for later ones and the end."""

    def __init__(self, adapters: list[ResidualAdapter], layout: Layout) -> None:
        self.adapters = adapters
        self.layout = layout
        self.reached: list[str] = []
        self.beside_attention: Tensor | None = None
        self.delta: Tensor | None = None
        if len(getattr(layout, "groups", ())) > 1:
            for adapter in adapters:
                adapter.check_groups()

    def total(self, deltas: list[Delta], hidden_states: Tensor) -> Tensor | None:
        """The sum of what these methods, one of each adapter, give for the tokens."""
        return add_up([apply_layout(delta, hidden_states, self.layout) for delta in deltas])

    def enter(self, hidden_states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add what the adapters have for the stream after attention: the new stream, and what was added to it."""
        if len(self.adapters) == 1 and isinstance(self.layout, TokenLayout):
            fused = self.adapters[0].stream_after_attention(hidden_states, self.layout)
            if fused is not None:
                return fused
        # The norm before attention may see an image where the MLP branch sees a sequence.
        beside = None if self.beside_attention is None else self.beside_attention.reshape(hidden_states.shape)
        delta = add_up([beside, self.total([a.after_attention for a in self.adapters], hidden_states)])
        return (hidden_states if delta is None else hidden_states + delta), delta

    def leave(self, hidden_states: Tensor) -> Tensor:
        """Add what was added before the MLP to the block's result, and what the adapters have for that."""
        # The MLP branch may see the image as a sequence.
        extra = None if self.delta is None else self.delta.reshape(hidden_states.shape)
        if len(self.adapters) == 1 and isinstance(self.layout, TokenLayout):
            fused = self.adapters[0].stream_after_mlp(hidden_states, extra, self.layout)
            if fused is not None:
                return fused
        if extra is not None:
            hidden_states = hidden_states + extra
        delta = self.total([a.after_mlp for a in self.adapters], hidden_states)
        return hidden_states if delta is None else hidden_states + delta


def add_up(deltas: list[Tensor | None]) -> Tensor | None:
    """The sum of those that are there."""
    present = [delta for delta in deltas if delta is not None]
    return functools.reduce(torch.add, present) if present else None


def running_call() -> Call | None:
    """The innermost forward of a tapped block that this thread runs."""
    calls = getattr(_thread, "calls", None)
    return calls[-1] if calls else None


@contextmanager
def running(call: Call) -> Iterator[None]:
    """Let `call` be the innermost one of this thread."""
    if not hasattr(_thread, "calls"):
        _thread.calls = []
    _thread.calls.append(call)
    try:
        yield
    finally:
        _thread.calls.pop()
