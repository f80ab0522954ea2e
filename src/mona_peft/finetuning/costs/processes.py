"""Several processes that train together (DDP), started from here."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed, multiprocessing

from .config import CostsConfig

Result = TypeVar("Result")


def process_threads(config: CostsConfig) -> int:
    """Threads of each process."""
    return config.threads or max(1, torch.get_num_threads() // config.processes)


def process_rank() -> int:
    """Number of this process among those that train together."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def process_device(config: CostsConfig) -> torch.device:
    """Device of this process: each has a GPU of its own."""
    device = torch.device(config.device)
    return torch.device("cuda", process_rank()) if device.type == "cuda" and config.processes > 1 else device


def run_in_processes(function: Callable[[CostsConfig], Result], config: CostsConfig) -> Result:
    """Call `function(config)` here, or in `config.processes` new processes at once.

    Args:
        function (`Callable`): A function of a module, its result can be pickled.
        config (`CostsConfig`): Its `threads` hold in every process.

    Returns:
        `Result`: Of the first process.

    Raises:
        ValueError: If there are fewer GPUs than processes.
    """
    config = replace(config, threads=process_threads(config))
    if config.processes == 1:
        return _call(function, config)
    if torch.device(config.device).type == "cuda" and torch.cuda.device_count() < config.processes:
        raise ValueError(f"processes={config.processes}, but there are {torch.cuda.device_count()} GPUs.")
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_join, args=(function, config, folder), nprocs=config.processes)
        return pickle.loads((Path(folder) / "result").read_bytes())


def _call(function: Callable[[CostsConfig], Result], config: CostsConfig) -> Result:
    torch.set_num_threads(config.threads)
    if not config.compile:
        return function(config)
    import torch._dynamo as dynamo

    # PyTorch runs code as it is once it has compiled it for too many models or sizes: here, all share their code.
    dynamo.reset()
    with dynamo.config.patch(recompile_limit=8 * len(config.methods)):
        return function(config)


def _join(rank: int, function: Callable[[CostsConfig], Result], config: CostsConfig, folder: str) -> None:
    on_cuda = torch.device(config.device).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(rank)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("nccl" if on_cuda else "gloo", meeting, rank=rank, world_size=config.processes)
    try:
        result = _call(function, config)
        if rank == 0:
            (Path(folder) / "result").write_bytes(pickle.dumps(result))
    finally:
        distributed.destroy_process_group()
