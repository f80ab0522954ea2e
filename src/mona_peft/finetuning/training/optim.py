"""AdamW with weight decay where it belongs, and the learning rate as a function of the step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .config import DECAYED_SETS, TrainingConfig

LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
NORMS = (*LAYER_NORMS, nn.GroupNorm, _NormBase, nn.LocalResponseNorm)

# Position tables and tokens have two dimensions or more, so their names tell them.
POSITION_NAMES = ("relative_position_bias_table", "position_embedding", "pos_embed", "absolute_pos")
NO_DECAY_NAMES = POSITION_NAMES + (
    "cls_token",
    "dist_token",
    "mask_token",
    "register_token",
    "lambda_",
    "layer_scale",
    "logit_scale",
)


def is_weight(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Whether a parameter is a matrix or kernel: no norm, bias, scale, token or position table.

    Args:
        name (`str`): Full name of the parameter.
        parameter (`nn.Parameter`): Scales are its vectors and scalars.
        owner (`nn.Module`): The module that owns it.
    """
    return not (isinstance(owner, NORMS) or parameter.ndim <= 1 or any(part in name for part in NO_DECAY_NAMES))


def is_not_layer_norm(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Whether a parameter is anything but a layer norm or position table; see [`is_weight`].

    mmdetection's and mmsegmentation's Swin recipes leave out the names with `norm`, which are those of the backbone's
    and Mona's layer norms; the heads' batch norms are called `bn` there, and decay with all biases and scales.
    """
    return not (isinstance(owner, LAYER_NORMS) or any(part in name for part in POSITION_NAMES))


#: What weight decay applies to, by the name of the setting.
DECAYED = dict(zip(DECAYED_SETS, (is_weight, is_not_layer_norm), strict=True))


def parameter_groups(model: nn.Module, weight_decay: float, decay_on: str = "weights") -> list[dict]:
    """Trainable parameters in two groups for AdamW, with decay and without.

    Args:
        model (`nn.Module`): Prepared by a method.
        weight_decay (`float`): Of the first group.
        decay_on (`str`): A key of `DECAYED`.

    Raises:
        ValueError: If nothing trains.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups[DECAYED[decay_on](f"{module_name}.{name}", parameter, module)].append(parameter)
    if not seen:
        raise ValueError(f"No parameter of {type(model).__name__} requires a gradient; apply a method to it first.")
    decay_of = {True: weight_decay, False: 0.0}
    return [{"params": group, "weight_decay": decay_of[decay]} for decay, group in groups.items() if group]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of `model`."""
    betas = (config.adam_beta1, config.adam_beta2)
    groups = parameter_groups(model, config.weight_decay, config.weight_decay_on)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas)


def make_schedule(config: TrainingConfig, steps_per_epoch: int, total_steps: int) -> Callable[[int], float]:
    """Learning rate of each step, a pure function, so that nothing of it needs saving.

    With `decay_from_start` it is the product of decay and warm-up that mmcv computes (`lr_updater.py`).

    Args:
        config (`TrainingConfig`): Kind, rate, warm-up and end.
        steps_per_epoch (`int`): Optimiser steps an epoch.
        total_steps (`int`): Optimiser steps of the whole run.

    Returns:
        `Callable[[int], float]`: From the number of steps done to the rate of the next.

    Raises:
        ValueError: If the run ends in its warm-up; with `max_steps`, which recipes are tried with, it is a warning.
    """
    warmup = config.warmup_steps + round(config.warmup_epochs * steps_per_epoch)
    milestones = [epoch * steps_per_epoch for epoch in config.step_epochs]
    first = 0 if config.decay_from_start else warmup
    if warmup >= total_steps:
        problem = (
            f"The run has {total_steps} steps and its warm-up {warmup} (warmup_steps {config.warmup_steps}, "
            f"warmup_epochs {config.warmup_epochs:g}): it never gets to learning_rate {config.learning_rate:g}. "
            "Train longer, or shorten the warm-up with --warmup_steps and --warmup_epochs."
        )
        if config.max_steps is None:
            raise ValueError(problem)
        warnings.warn(problem, stacklevel=2)
    elif config.schedule == "step" and max(milestones) >= total_steps:
        warnings.warn(
            f"The run has {total_steps} steps, and step_epochs {config.step_epochs} would lower the rate after "
            f"{milestones}. Train longer, or give earlier --step_epochs.",
            stacklevel=2,
        )

    def decayed(step: int) -> float:
        if config.schedule == "constant":
            return 1.0
        if config.schedule == "step":
            return 0.1 ** sum(step >= milestone for milestone in milestones)
        progress = max(0.0, min(1.0, (step - first) / max(1, total_steps - first)))
        share = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
        return config.min_lr_ratio + (1 - config.min_lr_ratio) * share

    def warmed_up(step: int) -> float:
        if config.warmup_ratio is None:
            return (step + 1) / (warmup + 1)
        return config.warmup_ratio + (1 - config.warmup_ratio) * step / warmup

    def rate(step: int) -> float:
        if step >= warmup:
            factor = decayed(step)
        else:
            factor = warmed_up(step) * (decayed(step) if config.decay_from_start else 1.0)
        return config.learning_rate * factor

    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times its own `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
