"""Whether the adapters are watched while they run, to plan what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_watched: ContextVar[bool] = ContextVar("watched", default=False)


@contextmanager
def watched() -> Iterator[None]:
    """Let adapters run as in eager mode under dispatch modes and on fake tensors, as on a GPU: a batch at once."""
    token = _watched.set(True)
    try:
        yield
    finally:
        _watched.reset(token)


def is_watched() -> bool:
    """Whether [`watched`] is at work."""
    return _watched.get()
