"""How many operations a call runs: what Python pays for on a CPU, and the kernels that a GPU is told to launch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

#: Operations that only look at memory in another way, or reserve it.
FREE = {
    *("alias", "as_strided", "chunk", "detach", "detach_", "diagonal", "expand", "expand_as", "flatten", "narrow"),
    *("permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten"),
    *("unsqueeze", "view", "view_as", "_unsafe_view", "_reshape_alias", "reshape", "resize_", "contiguous", "to"),
    *("empty", "empty_like", "empty_strided", "new_empty", "lift_fresh", "result_type", "set_", "resolve_conj"),
    *("is_nonzero", "item", "_local_scalar_dense", "broadcast_tensors", "expand_copy", "view_as_real"),
}
PREFIX = "aten::"


class Count(NamedTuple):
    """Operations of a call.

    Args:
        calls (`int`): Calls of PyTorch's functions that compute something; one for a whole `torch._foreach` function.
        kernels (`int`): What these come down to: on a GPU the kernels launched, on a CPU the innermost operations.
    """

    calls: int
    kernels: int


def count_operations(call: Callable[[], object], device: torch.device | None = None) -> Count:
    """Count the operations of a call; views and reserving memory are free.

    Args:
        call (`Callable`): Is called once before, so that work done once for all does not count.
        device (`torch.device`, *optional*): Where it runs; the CPU by default.
    """
    on_gpu = device is not None and device.type == "cuda"
    call()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize(device)
    events = list(profiler.events() or [])
    outer = [event for event in events if _is_operation(event) and not _within_operation(event)]
    innermost = [list(_innermost(event)) for event in outer]
    launched = sum(event.device_type == DeviceType.CUDA for event in events)
    return Count(sum(map(bool, innermost)), launched if on_gpu else sum(map(len, innermost)))


def step_operations(model: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Count:
    """Count the operations of a training step of a model, its optimiser left out.

    Args:
        model (`nn.Module`): Has its gradients set to None.
        loss (`Callable`): Gives the loss.
        device (`torch.device`): Where the model is.
    """

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    return count_operations(step, device)


def _is_operation(event: FunctionEvent) -> bool:
    return event.name.startswith(PREFIX)


def _within_operation(event: FunctionEvent) -> bool:
    parent = event.cpu_parent
    return parent is not None and (_is_operation(parent) or _within_operation(parent))


def _innermost(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """The operations that compute, without others of the kind inside."""
    inner = [found for child in event.cpu_children for found in _innermost(child)]
    if inner:
        yield from inner
    elif _is_operation(event) and event.name.removeprefix(PREFIX) not in FREE:
        yield event
