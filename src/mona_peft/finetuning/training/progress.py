"""Speed and state of a run as it goes: the figures behind the progress bar."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from tqdm.auto import tqdm

Item = TypeVar("Item")


class Stopwatch:
    """Seconds waited for data and spent in all, samples and steps, since the last reading."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start at zero."""
        self.start = time.perf_counter()
        self.waited = 0.0
        self.samples = 0
        self.steps = 0

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass on `items`, counting the time that each took to come."""
        iterator = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - asked
            yield item

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent meanwhile."""
        began = time.perf_counter()
        yield
        self.start += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Seconds a step, samples a second and share of time waiting for data, since the reading before."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        figures = {
            "step_seconds": round(elapsed / max(self.steps, 1), 5),
            "samples_per_second": round(self.samples / elapsed, 2),
            "data_wait": round(self.waited / elapsed, 4),
        }
        self.reset()
        return figures


def peak_memory_gib() -> float:
    """Most memory used so far, in GiB: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**30 if sys.platform == "darwin" else 2**20)


def progress_bar(total: int, done: int, description: str, shown: bool) -> tqdm:
    """A bar over optimiser steps, `done` of them finished."""
    return tqdm(total=total, initial=done, desc=description, disable=not shown, unit="step", dynamic_ncols=True)
