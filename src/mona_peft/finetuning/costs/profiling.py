"""Where the time of a training step goes, by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mona_peft.finetuning import markdown

from .config import CostsConfig
from .processes import run_in_processes
from .steps import build_subjects

STEPS = 3
TOP = 15


class Operation(NamedTuple):
    """An operation of a training step.

    Args:
        name (`str`): As PyTorch calls it.
        cpu (`float`): Seconds a step on the CPU, without the operations it calls.
        gpu (`float`): Seconds a step of the kernels it starts.
        calls (`float`): Calls a step.
    """

    name: str
    cpu: float
    gpu: float
    calls: float


def profile_operations(call: Callable[[], object], device: torch.device, steps: int = STEPS) -> list[Operation]:
    """Profile some calls.

    Args:
        call (`Callable`): What to profile, such as a training step.
        device (`torch.device`): Where it runs.
        steps (`int`): How often it is called.

    Returns:
        `list[Operation]`: The operations that took the most time first, on the GPU where there is one.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(steps):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    operations = [
        Operation(
            event.key,
            event.self_cpu_time_total / steps / 1e6,
            event.self_device_time_total / steps / 1e6,
            event.count / steps,
        )
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU  # a kernel counts with the operation that starts it
    ]
    return sorted(operations, key=lambda one: one.gpu if on_gpu else one.cpu, reverse=True)


def operations_table(operations: Sequence[Operation], top: int = TOP) -> str:
    """Write the first operations and the sum of all as a Markdown table; the GPU's time where there is any."""
    total = Operation("all", *(sum(column) for column in list(zip(*operations, strict=True))[1:]))
    head = ["operation", "self CPU, ms", "share"] + (["self GPU, ms", "share"] if total.gpu else []) + ["calls"]
    lines = [head, ["---"] * len(head)] + [_cells(one, total) for one in [*operations[:top], total]]
    return markdown.table(lines)


def _cells(one: Operation, total: Operation) -> list[str]:
    cpu = [f"{1e3 * one.cpu:.2f}", f"{one.cpu / total.cpu:.1%}"]
    gpu = [f"{1e3 * one.gpu:.2f}", f"{one.gpu / total.gpu:.1%}"] if total.gpu else []
    return [one.name, *cpu, *gpu, f"{one.calls:.4g}"]


def run_profile(config: CostsConfig) -> dict[str, str]:
    """Profile a training step of every method of `config`, after its rounds of warm-up; tables by method."""
    return run_in_processes(_profile, config)


def _profile(config: CostsConfig) -> dict[str, str]:
    tables = {}
    for name, subject in build_subjects(config).items():
        for _ in range(max(1, config.warmup)):
            subject.step()
        tables[name] = operations_table(profile_operations(subject.step, subject.device))
    return tables
