"""Runs whose disk is full, whose folder cannot be written, or whose loading process is killed."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mona_peft.finetuning.training import Trainer
from tests.finetuning.faults.line_run import start, wait_for_steps
from tests.finetuning.training.test_kill import assert_same_run
from tests.finetuning.training.test_loop import config
from tests.finetuning.training.toy import LineTask

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("fail_at", [1, 2, 3, 5, 8, 13, 21, 34])
def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, monkeypatch, fail_at):
    """No flush succeeds from the given one of the second epoch on, as on a full disk; there is room again later."""
    changes = {"checkpoint_steps": 2, "num_epochs": 2}
    Trainer(LineTask(), config(tmp_path / "whole", **changes)).train()
    trainer = Trainer(LineTask(), config(tmp_path / "cut", **changes))
    flush, flushed = os.fsync, []

    def full(descriptor):
        if len(trainer.task.seen) > 6:
            flushed.append(descriptor)
            if len(flushed) >= fail_at:
                raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    trainer.close()
    monkeypatch.undo()
    resumed = Trainer(LineTask(), config(tmp_path / "cut", resume=True, **changes))
    assert resumed.checkpoint is not None and resumed.checkpoint.state["step"] >= 6
    resumed.train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def limited(folder: Path, size: int) -> subprocess.CompletedProcess:
    """A run that can write no file larger than `size`."""
    code = (
        "import signal, sys; from pathlib import Path; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from tests.finetuning.training.test_loop import config; from tests.finetuning.training.toy import LineTask\n"
        "from mona_peft.finetuning.training import Trainer\n"
        "Trainer(LineTask(), config(Path(sys.argv[1]))).train()"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, cwd=Path(__file__).parents[3])


@pytest.mark.slow
def test_files_that_do_not_fit(tmp_path):
    """The weights fit, the optimiser's state does not: the run ends at its first checkpoint and starts over."""
    Trainer(LineTask(), config(tmp_path / "whole")).train()
    done = limited(tmp_path / "cut", 3500)
    assert done.returncode == 1 and not list((tmp_path / "cut").glob("checkpoint-????????")), done.stderr[-2000:]
    Trainer(LineTask(), config(tmp_path / "cut", resume=True)).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.skipif(os.name != "posix" or not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(OSError, match="/proc/self/run"):
        Trainer(LineTask(), config("/proc/self/run"))


@pytest.mark.slow
def test_a_killed_loading_process_ends_the_run(tmp_path):
    running = start(tmp_path, num_epochs=500, checkpoint_steps=5, num_workers=1)
    wait_for_steps(tmp_path, 12, running)
    (process,) = running
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if "line_run" in Path(f"/proc/{pid}/cmdline").read_text()]
    started = time.monotonic()
    for pid in workers:
        os.kill(int(pid), signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    assert workers and process.returncode == 1 and time.monotonic() - started < 60
    assert "DataLoader worker" in errors
    assert list(tmp_path.glob("checkpoint-????????"))
