"""Runs killed with SIGKILL, for real, end as a run that was never killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mona_peft.finetuning.training import Trainer
from mona_peft.finetuning.training.run_folder import read_log
from tests.finetuning.tasks.tiny_classifier import as_flags, configs, train_classifier, write_classifier
from tests.finetuning.training.killing import kill_until_done
from tests.finetuning.training.test_loop import config
from tests.finetuning.training.toy import LineTask

TIMED = {"step_seconds", "samples_per_second", "data_wait", "memory_gib", "seconds", "peak_memory_gib"}
SCRIPT = Path(__file__).parents[3] / "scripts" / "train_classification.py"


def untimed(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in TIMED}


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, optimiser, random state, log and figures are the same to the last bit."""
    assert [untimed(r) for r in read_log(first / "metrics.jsonl")] == [
        untimed(r) for r in read_log(second / "metrics.jsonl")
    ]
    for path in sorted(first.rglob("*.safetensors")):
        one, two = load_file(path), load_file(second / path.relative_to(first))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one), path
    (newest,) = sorted(path.name for path in first.glob("checkpoint-*"))[-1:]
    for name in ("optimizer.bin", "random_states_0.pkl"):
        one, two = (torch.load(run / newest / name, weights_only=False) for run in (first, second))
        assert_same_value(one, two)
    if (first / "metrics.json").exists():
        one, two = (json.loads((run / "metrics.json").read_text()) for run in (first, second))
        assert untimed(one) == untimed(two)


def assert_same_value(one, two) -> None:
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same_value(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_same_value(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    else:
        assert str(one) == str(two)


def train_line(folder: Path, resume: bool) -> None:
    slow = LineTask()
    plain_loss = slow.loss
    slow.loss = lambda model, batch: (time.sleep(0.01), plain_loss(model, batch))[1]
    Trainer(slow, config(folder, resume=resume, num_epochs=8, checkpoint_steps=3, eval_steps=2)).train()


def train_digits(model: Path, folder: Path, resume: bool) -> None:
    data, classification, training = configs(model, folder, num_epochs=6, checkpoint_steps=2, resume=resume)
    classification.mixup = 0.2
    train_classifier(data, classification, training)


@pytest.mark.filterwarnings("ignore")
def test_killed_at_any_moment(tmp_path):
    started = time.perf_counter()
    train_line(tmp_path / "whole", resume=False)
    moment = (time.perf_counter() - started) / 8  # so that it takes three kills at least, on a machine at any load
    assert kill_until_done(train_line, (tmp_path / "cut",), kills=8, longest=moment) >= 3
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_adapter_training(tmp_path):
    model = write_classifier(tmp_path / "model")
    started = time.perf_counter()
    train_digits(model, tmp_path / "whole", resume=False)
    moment = (time.perf_counter() - started) / 8
    assert kill_until_done(train_digits, (model, tmp_path / "cut"), kills=6, longest=moment) >= 3
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_killed_script(tmp_path):
    """The script, killed when it has logged its fourth step, with loading workers."""
    model = write_classifier(tmp_path / "model")
    for run in ("whole", "cut"):
        flags = as_flags(*configs(model, tmp_path / run, num_epochs=4, checkpoint_steps=3, num_workers=1))
        command = [sys.executable, str(SCRIPT), *flags]
        if run == "whole":
            subprocess.run(command, check=True)
            continue
        process = subprocess.Popen(command)
        while len(read_log(tmp_path / "cut" / "metrics.jsonl")) < 5:
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "cut" / "metrics.json").exists()
        subprocess.run([*command, "--resume", "True"], check=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
