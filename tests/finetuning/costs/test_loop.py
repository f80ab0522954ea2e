"""What the training loop costs, on a model that takes no time."""

import json
import sys

import pytest

from mona_peft.finetuning.costs import loop
from mona_peft.finetuning.costs.loop import (
    BARE,
    IMAGES,
    OURS,
    READY,
    ReadyTask,
    compare_loops,
    loop_sentence,
    loop_task,
    write_images,
)
from tests.support.models import swin_config


@pytest.fixture
def small(monkeypatch):
    """A small Swin in place of Swin-T."""
    monkeypatch.setattr(loop, "SwinConfig", lambda image_size, id2label: swin_config(id2label=id2label))


def test_all_three_loops_train_on_the_same_files(small, tmp_path, monkeypatch):
    seen = {}
    original = loop.TimedTrainer.train_batch

    def note(trainer, batch):
        seen.setdefault(type(trainer.task), []).append(batch["pixel_values"].shape)
        return original(trainer, batch)

    monkeypatch.setattr(loop.TimedTrainer, "train_batch", note)
    seconds = compare_loops(3, 2, batch_size=4, image_size=32)
    assert set(seconds) == {BARE, OURS, READY} and all(value > 0 for value in seconds.values())
    assert {kind.__name__: len(shapes) for kind, shapes in seen.items()} == {"ClassificationTask": 6, "ReadyTask": 6}
    assert {tuple(shape) for shapes in seen.values() for shape in shapes} == {(4, 3, 32, 32)}


def test_ready_images_are_read_once(small, tmp_path, monkeypatch):
    write_images(tmp_path)
    task = loop_task(tmp_path, 32, ReadyTask)
    samples = task.dataset("train")
    assert len(samples) == IMAGES and task.dataset("train") is samples
    for file in tmp_path.rglob("*.jpg"):
        file.unlink()
    assert samples[0]["pixel_values"].shape == (3, 32, 32)


def test_the_sentence_says_what_was_measured():
    results = {
        "seconds": {BARE: 0.100, OURS: 0.102, READY: 0.0969},
        "config": {"batch_size": 8, "num_workers": 2, "cpu_time": False},
        "command": "python scripts/benchmark_loop.py --num_workers 2",
    }
    said = loop_sentence(results)
    assert "+2.0% over a loop written by hand" in said and "5.0% of it is gone" in said and "102 ms, time" in said


def test_the_script_writes_its_file(small, tmp_path, monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(
        sys,
        "argv",
        [
            "benchmark_loop.py",
            "--steps",
            "2",
            "--rounds",
            "1",
            "--batch_size",
            "2",
            "--image_size",
            "32",
            "--cpu_time",
            "--output",
            str(tmp_path / "loop.json"),
        ],
    )
    runpy.run_path("scripts/benchmark_loop.py", run_name="__main__")
    written = json.loads((tmp_path / "loop.json").read_text())
    assert loop_sentence(written) in capsys.readouterr().out and str(tmp_path) not in written["command"]
