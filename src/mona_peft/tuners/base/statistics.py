"""Batch norms that do not train keep their running statistics: no adapter file holds them.

Hooks let them run as in evaluation and leave their mode as it is: the adapter, or whoever else, may train them next.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mona_peft.blocks.modules import remove_hooks


def hold_frozen_statistics(model: nn.Module) -> None:
    """Let each batch norm of `model` run as in evaluation as long as no parameter of it trains.

    One that has none follows the training in a module that is saved with an adapter, statistics and all.
    """
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        if not module.affine and ".modules_to_save." in name:
            _release(module)  # a copy has the hooks of what it is a copy of
        elif _hold not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_hold)
            module.register_forward_hook(_let_go, always_call=True)


def release_frozen_statistics(model: nn.Module) -> None:
    """Take back `hold_frozen_statistics`."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            _release(module)


def _release(module: nn.Module) -> None:
    remove_hooks(module, lambda hook: hook in (_hold, _let_go))


def _hold(module: nn.Module, args: tuple) -> None:
    if module.training and not any(p.requires_grad for p in module.parameters()):
        module.training, module._held = False, True  # type: ignore[assignment]


def _let_go(module: nn.Module, args: tuple, output: object) -> None:
    if hasattr(module, "_held"):
        module.training = True
        del module._held
