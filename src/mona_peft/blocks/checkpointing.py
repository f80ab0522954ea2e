"""Gradient checkpointing of a frozen backbone with adapters: gradients have to reach the checkpointed modules.

Reentrant checkpointing gives no gradient, silently, to a module none of whose inputs needs one, as is the case in a
frozen backbone up to its first adapter.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol, SupportsIndex

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .modules import ancestors

#: Whether a checkpoint covers a module's hooks, so that none runs before it; so it does in transformers 5.0.
CHECKPOINT_WRAPS_CALL = "__call__" in vars(GradientCheckpointingLayer)


def outermost_checkpointed(model: nn.Module, name: str) -> nn.Module:
    """The outermost module around block `name` (or the block) that transformers may checkpoint as a whole."""
    candidates = [model.get_submodule(name), *ancestors(model, name)]
    checkpointed = [m for m in candidates if hasattr(type(m), "gradient_checkpointing")]
    return checkpointed[-1] if checkpointed else candidates[0]


def require_input_grad(module: nn.Module, args: tuple) -> tuple | None:
    """Pre-hook: reentrant checkpointing gives no gradient at all to a module none of whose inputs needs one."""
    if not (getattr(module, "gradient_checkpointing", False) and module.training and torch.is_grad_enabled()):
        return None
    options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    if not options.get("use_reentrant", True) or not args or not isinstance(args[0], Tensor):
        return None
    if args[0].requires_grad or not any(p.requires_grad for p in module.parameters()):
        return None
    return (args[0].detach().requires_grad_(), *args[1:])


def register_before_checkpoint(module: nn.Module) -> Handle:
    """Let `require_input_grad` run before `module` is checkpointed; gives back a handle.

    Where a checkpoint covers the hooks, the instance gets a subclass of its class that calls it first; a block with
    adapters has such a class already.
    """
    if not CHECKPOINT_WRAPS_CALL:
        return module.register_forward_pre_hook(require_input_grad)
    return _CallHandle(module)


class Handle(Protocol):
    """What is registered, until it is removed."""

    def remove(self) -> None:
        """Take it back."""


class _CallHandle:
    """Counts the users of a module whose calls begin with `require_input_grad`, and ends that with the last one."""

    def __init__(self, module: Any) -> None:
        self.module = module
        module._before_checkpoint = getattr(module, "_before_checkpoint", 0) + 1
        if module._before_checkpoint == 1 and not hasattr(module, "_tap"):
            module.__class__ = _watched_class(module.__class__)

    def remove(self) -> None:
        self.module._before_checkpoint -= 1
        if self.module._before_checkpoint == 0:
            del self.module._before_checkpoint
            if isinstance(self.module, _Watched):
                self.module.__class__ = type(self.module).__mro__[2]


class _Watched:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = require_input_grad(self, args) or args  # type: ignore[arg-type]
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:
        # The class is made at run time, so pickling and copying name the class it was made from.
        return _new_watched, (type(self).__mro__[2],), self.__getstate__()


def _new_watched(base: type) -> object:
    cls: Any = _watched_class(base)
    return cls.__new__(cls)


@functools.cache
def _watched_class(base: type) -> type:
    return type(base.__name__, (_Watched, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def tolerate_tuple_embeddings(model: nn.Module) -> None:
    """Let `enable_input_require_grads` work where the patch embedding returns a tuple, as Swin's does.

    transformers and PEFT call it when gradient checkpointing meets adapters; transformers' own fails at the next
    forward there.
    """
    if hasattr(model, "enable_input_require_grads"):
        # a partial and not a bound method: pickle looks a method up by its name in the class
        model.enable_input_require_grads = functools.partial(_enable_input_require_grads, model)  # type: ignore[assignment]


def restore_embeddings(model: nn.Module) -> None:
    """Take back `tolerate_tuple_embeddings`."""
    model.__dict__.pop("enable_input_require_grads", None)


def _enable_input_require_grads(model: nn.Module) -> None:
    type(model).enable_input_require_grads(model)  # type: ignore[attr-defined]
    for handle in getattr(model, "_require_grads_hooks", []):
        hooks_of_module = handle.hooks_dict_ref()
        if hooks_of_module is not None and handle.id in hooks_of_module:
            hooks_of_module[handle.id] = _require_output_grad


def _require_output_grad(module: nn.Module, args: tuple, output: object) -> None:
    for tensor in output if isinstance(output, tuple) else (output,):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            tensor.requires_grad_(True)
