"""Where new adapters are put, and of what data type they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def place_of(module: nn.Module) -> tuple[torch.device | None, torch.dtype]:
    """Device and type for an adapter of `module`: those of its weight, or of its first parameter of floats.

    A quantised module has no weight of floats; its adapter is of PyTorch's default type. A module that accelerate
    keeps elsewhere has weights on the meta device; its adapter goes to where the module runs.
    """
    parameters = [getattr(module, "weight", None), *module.parameters()]
    tensors = [p for p in parameters if isinstance(p, Tensor)]
    floats = [p for p in tensors if p.is_floating_point() and p.dtype.itemsize > 1]
    dtype = floats[0].dtype if floats else torch.get_default_dtype()
    if not tensors:
        return None, dtype
    return execution_device(module) if tensors[0].is_meta else tensors[0].device, dtype


def execution_device(module: nn.Module) -> torch.device | None:
    """Where accelerate runs a module whose weights it keeps elsewhere; None if it does not."""
    hooks = [getattr(part, "_hf_hook", None) for part in module.modules()]
    for hook in hooks:
        for single in getattr(hook, "hooks", [hook]):
            device = getattr(single, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None


def adapter_dtype(adapter: nn.Module, default: torch.dtype) -> torch.dtype:
    """The type in which `adapter` computes; `default` if it has no parameters, as once it is quantised."""
    return next((p.dtype for p in adapter.parameters()), default)
