"""Time and peak memory of a function."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import distributed


class Timing(NamedTuple):
    """Seconds a call takes, over interleaved repeats, and how that compares with a baseline.

    Args:
        median (`float`): Median seconds.
        low (`float`): First quartile.
        high (`float`): Third quartile.
        ratio (`float`): Median over the rounds of the ratio to the baseline of the same round.
    """

    median: float
    low: float
    high: float
    ratio: float


def synchronize(device: torch.device) -> None:
    """Wait for what an accelerator has been given to do, and for the processes that train together with this one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    baseline: str,
    repeats: int,
    warmup: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time calls in rounds of one call each, so that what slows the machine down for a while slows all of them.

    Args:
        calls (`Mapping[str, Callable]`): What to time, by name.
        baseline (`str`): The call that the others are compared with.
        repeats (`int`): Rounds that count.
        warmup (`int`): Rounds before them.
        device (`torch.device`): Where the calls run.
        clock (`Callable`): Tells the time in seconds.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        start = turn % len(names)  # another call goes first in each round: none always follows the same one
        for name in names[start:] + names[:start]:
            elapsed = _seconds(calls[name], device, clock)
            if turn >= warmup:
                seconds[name].append(elapsed)
    return {name: _summarize(values, seconds[baseline]) for name, values in seconds.items()}


def _seconds(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    synchronize(device)
    start = clock()
    call()
    synchronize(device)
    return clock() - start


def _summarize(values: list[float], baseline: list[float]) -> Timing:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    ratio = statistics.median(value / base for value, base in zip(values, baseline, strict=True))
    return Timing(statistics.median(values), low, high, ratio)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Measure by how much a call raises the memory in use, at most.

    Returns:
        `int`, *optional*: On CUDA from its allocator; on a CPU from the process's resident memory, which Linux alone
        tells; else None.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed but not given back would hide the rise
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak
        before = _resident("VmRSS")
        call()
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(field: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024
