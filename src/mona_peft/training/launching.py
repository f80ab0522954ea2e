"""What `accelerate launch` leaves to the program."""

from __future__ import annotations

import os
import warnings

from accelerate import PartialState
from accelerate.utils import DistributedType


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
