"""Kill training runs at random moments."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch


def _run(started: Connection, threads: int, target: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(threads)
    started.send(True)
    target(*arguments)


def kill_until_done(target: Callable[..., Any], arguments: tuple, kills: int, longest: float, seed: int = 5) -> int:
    """Run `target(*arguments, resume)` in children, killing the first ones; gives how many were killed.

    The children come from a server, not from this process: they would share its semaphores, and one that is killed
    while it holds tqdm's would stop all others for good.

    Args:
        target (`Callable`): A function of a module, or a `partial` of one.
        arguments (`tuple`): Its first arguments; the last, whether to resume, is added.
        kills (`int`): How many children to kill at most.
        longest (`float`): Seconds after which a child is killed at the latest.
        seed (`int`): Draws the moments.
    """
    moments = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.finetuning.tasks.tiny_dense", "tests.finetuning.tasks.tiny_classifier"])
    killed = 0
    for attempt in range(kills + 1):
        ours, theirs = context.Pipe(duplex=False)
        words = (theirs, torch.get_num_threads(), target, (*arguments, attempt > 0))
        child = context.Process(target=_run, args=words, daemon=True)
        child.start()
        theirs.close()
        assert ours.recv()  # an EOFError if it ended before it began
        if attempt < kills:
            child.join(moments.uniform(0.02, longest))
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        assert child.exitcode in (0, -signal.SIGKILL)
        if child.exitcode == 0:
            break
    assert child.exitcode == 0
    return killed
