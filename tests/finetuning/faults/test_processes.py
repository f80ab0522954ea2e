"""Runs that are asked to stop, and runs of which one process is killed or stands still."""

import signal
import time

import pytest

from tests.finetuning.faults.line_run import SlowLineTask, start, wait_for_steps
from tests.finetuning.training.test_kill import assert_same_run
from tests.finetuning.training.test_loop import config

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def end(processes, seconds):
    """Exit codes and standard errors; all have to end in this time."""
    until = time.monotonic() + seconds
    try:
        errors = [process.communicate(timeout=max(until - time.monotonic(), 0.1))[1] for process in processes]
        return [process.returncode for process in processes], errors
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_a_checkpoint_and_ends(tmp_path, processes):
    changes = {"num_epochs": 6, "checkpoint_steps": 1000}
    assert end(start(tmp_path / "whole", processes, pause=0, **changes), 300)[0] == [0] * processes
    running = start(tmp_path / "cut", processes, **changes)
    wait_for_steps(tmp_path / "cut", 5, running)
    for process in running[:1]:  # one of them is enough
        process.send_signal(signal.SIGTERM)
    codes, errors = end(running, 60)
    assert codes == [143] * processes, errors
    (saved,) = (tmp_path / "cut").glob("checkpoint-*")
    assert f"Stopped by SIGTERM; --resume goes on from step {int(saved.name[-8:])}" in errors[0]
    codes, errors = end(start(tmp_path / "cut", processes, pause=0, resume=True, **changes), 300)
    assert codes == [0] * processes, errors
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("number, limit", [(signal.SIGKILL, 60), (signal.SIGSTOP, 75)])
@pytest.mark.parametrize("lost", [0, 1])
def test_one_of_two_processes_is_lost(tmp_path, number, limit, lost):
    """Killed, the other ends with an error within a minute; stopped, within the time-out."""
    running = start(tmp_path, 2, num_epochs=500, checkpoint_steps=5, process_timeout=20)
    wait_for_steps(tmp_path, 12, running)
    running[lost].send_signal(number)
    try:
        codes, errors = end([running[1 - lost]], limit)
    finally:
        running[lost].kill()
        running[lost].wait()
    assert codes[0] not in (0, None)
    assert "has lost another one" in errors[0] and "process_timeout (20 seconds)" in errors[0], errors[0][-3000:]
    assert list(tmp_path.glob("checkpoint-*"))


def test_sigterm_outside_of_training_is_left_alone(tmp_path):
    from mona_peft.finetuning.training import Trainer

    before = signal.getsignal(signal.SIGTERM)
    Trainer(SlowLineTask(0), config(tmp_path, num_epochs=1)).train()
    assert signal.getsignal(signal.SIGTERM) is before
