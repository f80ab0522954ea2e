"""What `accelerate launch` leaves to the program: how many processes there are, and what if one of them is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import distributed

from mona_peft.finetuning import recipes

# How the backends of torch.distributed say that they waited in vain, or that a process has ended.
LOST_PEER = ("timed out", "timeout", "connection closed", "connection reset", "broken pipe", "connectfullmesh")


def launched_precision() -> str | None:
    """The mixed precision that `accelerate launch` was told; `None` if it is its default."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    return None if precision == "no" else precision


def check_launch(mixed_precision: str, gradient_accumulation_steps: int) -> None:
    """Refuse settings that differ from the launcher's, and warn if one CPU process was started in place of several.

    `accelerate launch --cpu --num_processes 2` sets the address to meet at, but starts a single process where there is
    no MPI; every figure would be right, and the second CPU idle.

    Args:
        mixed_precision (`str`): Of the run.
        gradient_accumulation_steps (`int`): Of the run.

    Raises:
        ValueError: If accelerate's launcher was told another precision or accumulation than the run.
    """
    precision = launched_precision() or mixed_precision
    accumulation = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto")
    for name, told, ours in (
        ("mixed_precision", precision, mixed_precision),
        ("gradient_accumulation_steps", accumulation, str(gradient_accumulation_steps)),
    ):
        if told not in ("auto", ours):
            raise ValueError(
                f"accelerate launch was told {name} {told}, and the run {ours}. Leave it out of the launcher's "
                f"settings, or give the run --{name} {told}."
            )
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if on_cpu and "MASTER_ADDR" in os.environ and "RANK" not in os.environ and "PMI_RANK" not in os.environ:
        warnings.warn(
            "accelerate launch was asked for several processes on the CPU and started one. Use --config_file "
            f"{recipes.launch_config('cpu')} instead of --cpu --num_processes N, or torchrun --nproc_per_node N.",
            stacklevel=2,
        )


def group_settings(seconds: float) -> InitProcessGroupKwargs:
    """How long the processes wait for each other, for accelerate."""
    return InitProcessGroupKwargs(timeout=timedelta(seconds=seconds))


@contextmanager
def naming_lost_processes(accelerator: Accelerator, seconds: float) -> Iterator[None]:
    """Say what it means if a process waited for another in vain.

    Raises:
        ConnectionError: If another process was lost, in place of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        lost = any(words in str(error).lower() for words in LOST_PEER)
        if accelerator.num_processes == 1 or not lost:
            raise
        raise ConnectionError(
            f"Process {accelerator.process_index} of {accelerator.num_processes} has lost another one: it has "
            f"ended or stood still for longer than process_timeout ({seconds:g} seconds). Its output may say why; "
            "--resume goes on from the newest checkpoint."
        ) from error


class StopRequest:
    """Whether SIGTERM asked this run to end; while it is entered, the signal waits for the end of a step.

    Args:
        accelerator (`Accelerator`): Knows the processes, which all have to end after the same step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.asked = False
        # A group on the CPU: asking must not wait for the GPU.
        several = accelerator.num_processes > 1 and distributed.is_initialized()
        group = distributed.new_group(backend="gloo") if several else None
        assert not isinstance(group, int), "every process is in it"
        self.group = group

    def __enter__(self) -> StopRequest:
        self.previous: Callable[[int, FrameType | None], object] | int | None = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *raised: object) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def agreed(self) -> bool:
        """Whether any process was asked, the same on all of them after the same step."""
        if self.group is None:
            return self.asked
        asked = torch.tensor(int(self.asked))
        distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self.group)
        return bool(asked)

    def end(self, message: str) -> None:
        """End the program as SIGTERM does, having said why.

        Raises:
            SystemExit: Always, with the exit code 143.
        """
        if self.accelerator.is_main_process:
            print(message, file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGTERM)
