"""What `accelerate launch` leaves to the program."""

from __future__ import annotations

import os
import warnings
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import nn


def check_launch() -> None:
    """Warn if several CPU processes were asked for and one was started.

    `accelerate launch --cpu --num_processes 2` sets the address to meet at, but starts a single process where there is
    no MPI; every figure would be right, and the second CPU idle.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if on_cpu and "MASTER_ADDR" in os.environ and "RANK" not in os.environ and "PMI_RANK" not in os.environ:
        warnings.warn(
            "accelerate launch was asked for several processes on the CPU and started one. Use --config_file "
            "recipes/accelerate/cpu.yaml instead of --cpu --num_processes N, or torchrun --nproc_per_node N.",
            stacklevel=2,
        )


def check_sharding(plugin: Any, model: nn.Module) -> None:
    """Refuse what accelerate cannot shard: with efficient loading FSDP2 sends parameters from process to process only.

    Args:
        plugin (`FullyShardedDataParallelPlugin`, *optional*): settings of the sharding; `None` without any.
        model (`nn.Module`): what is to be sharded.

    Raises:
        `ValueError`: if the model has buffers in its state dict that would be lost.
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


def allow_sharding_on_cpu(cpu: bool) -> None:
    """Let accelerate shard (FSDP) over CPU processes that talk through gloo.

    It offers FSDP to processes with accelerators only, though PyTorch shards on CPUs as well; telling it that these
    processes have one is all it takes, as device and backend are settled by then.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return
    state = PartialState(cpu=cpu or None)
    if state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
