"""A short run of a straight line as a program of its own: `python -m tests.finetuning.faults.line_run FOLDER CHANGES`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mona_peft.finetuning.training.run import run_task
from mona_peft.finetuning.training.run_folder import read_log
from tests.finetuning.training.launching import free_port
from tests.finetuning.training.test_loop import config
from tests.finetuning.training.toy import LineTask

ROOT = Path(__file__).parents[3]


class SlowLineTask(LineTask):
    """Takes a while for each step, so that there is a time to be disturbed."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    def loss(self, model, batch):
        time.sleep(self.pause)
        return super().loss(model, batch)


def start(folder: Path, processes: int = 1, pause: float = 0.05, **changes: Any) -> list[subprocess.Popen[str]]:
    """Start the run in so many processes, without a launcher that would end the others when one ends."""
    started = []
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    shared |= {"ACCELERATE_USE_CPU": "true"}
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(shared | place if processes > 1 else {})}
        command = [sys.executable, "-m", "tests.finetuning.faults.line_run", str(folder), str(pause)]
        command.append(json.dumps(changes))
        options: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **options))
    return started


def wait_for_steps(folder: Path, steps: int, processes: list[subprocess.Popen[str]], seconds: float = 300) -> None:
    """Return when the run has logged so many records."""
    until = time.monotonic() + seconds
    while len(read_log(folder / "metrics.jsonl")) < steps:
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, ended[0].stderr and ended[0].stderr.read()[-3000:]
        assert time.monotonic() < until, "the run did not get there"
        time.sleep(0.02)


def main(folder: str, pause: str, changes: str) -> None:
    torch.set_num_threads(1)
    run_task(SlowLineTask(float(pause)), config(Path(folder), **json.loads(changes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
