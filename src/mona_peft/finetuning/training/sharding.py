"""Models of which each process has a part of the parameters only (FSDP)."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mona_peft.finetuning.models.weights import read_weights

from .config import TrainingConfig
from .optim import parameter_groups


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process has a part of the parameters only."""
    return accelerator.distributed_type == DistributedType.FSDP


def check_sharding(plugin: FullyShardedDataParallelPlugin | None, model: nn.Module) -> None:
    """Refuse what accelerate cannot shard: with efficient loading FSDP2 sends parameters from process to process only.

    Args:
        plugin (`FullyShardedDataParallelPlugin`, *optional*): Settings of the sharding; `None` without any.
        model (`nn.Module`): What is to be sharded.

    Raises:
        ValueError: If the model has buffers in its state dict that would be lost.
    """
    if plugin is None or plugin.fsdp_version != 2 or not plugin.cpu_ram_efficient_loading:
        return
    buffers = sorted({name for name, _ in model.named_buffers()} & model.state_dict().keys())
    if buffers:
        raise ValueError(
            f"The model has {len(buffers)} buffers to save, such as '{buffers[0]}', which FSDP2 cannot send to the "
            "other processes. Set fsdp_cpu_ram_efficient_loading: false in accelerate's configuration, so that every "
            "process loads the model itself."
        )


def regroup_parameters(optimizer: torch.optim.Optimizer, model: nn.Module, config: TrainingConfig) -> None:
    """Give the optimiser the shards of its parameters.

    accelerate finds them by the addresses of the whole parameters, which may coincide.
    """
    groups = parameter_groups(model, config.weight_decay, config.weight_decay_on)
    for group, sharded in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = sharded["params"]


def load_sharded_weights(model: nn.Module, path: Path) -> None:
    """Load what `save_weights` wrote into a model of which each process has a part."""
    own = model.state_dict()
    with torch.no_grad():
        for name, whole in read_weights(path).items():
            target = own[name]
            if isinstance(target, DTensor):
                whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
            target.copy_(whole)


def bare_name(name: str) -> str:
    """Name of a tensor without what DDP and torch.compile put before or into it."""
    return name.removeprefix("module.").replace("_orig_mod.", "")
