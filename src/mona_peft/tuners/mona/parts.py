"""Whether the parts of an adapter may be computed from their weights, or have to be called as modules."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as torch_module

#: PyTorch's hooks on every module; it changes these dictionaries in place.
HOOKS_OF_ALL = (
    torch_module._global_forward_pre_hooks,
    torch_module._global_forward_hooks,
    torch_module._global_backward_pre_hooks,
    torch_module._global_backward_hooks,
)


def is_hooked(module: nn.Module) -> bool:
    """Whether something expects `module` to be called: hooks of its own or of all modules, or a replaced `forward`.

    Offloading, FSDP, the older forms of pruning and of weight and spectral norm, and users hook into modules.
    """
    if module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks:
        return True
    return "forward" in module.__dict__ or (not torch.compiler.is_compiling() and _all_modules_hooked())


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether `module` is exactly of the class `kind`, and nothing hooks into it.

    A parametrised, quantised or wrapped module is of another class.
    """
    return type(module) is kind and not is_hooked(module)


def _all_modules_hooked() -> bool:
    return any(HOOKS_OF_ALL)
