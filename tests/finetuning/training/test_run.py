"""Whole runs: batch sizes that fit, streams, trackers, refusals."""

import json

import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mona_peft.finetuning.training import Trainer
from mona_peft.finetuning.training.run import fit_batch_size, largest_fitting, run_task
from mona_peft.finetuning.training.tracking import resolve_trackers
from tests.finetuning.training.test_loop import Killed, config
from tests.finetuning.training.toy import LineTask


class GreedyTask(LineTask):
    """Runs out of memory above a batch of 3."""

    def __init__(self):
        super().__init__(train_size=21)

    def loss(self, model, batch):
        if len(batch["x"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(model, batch)


@pytest.mark.slow
def test_the_batch_is_halved_until_it_fits(tmp_path):
    settings = config(tmp_path, batch_size=12, auto_batch_size=True, num_epochs=1)
    fitted = fit_batch_size(GreedyTask(), settings)
    assert (fitted.batch_size, fitted.gradient_accumulation_steps) == (3, 4)
    assert run_task(GreedyTask(), settings)["steps"] == 2
    assert json.loads((tmp_path / "run.json").read_text())["batch_size"] == 3
    resumed = fit_batch_size(GreedyTask(), config(tmp_path, batch_size=12, auto_batch_size=True, resume=True))
    assert (resumed.batch_size, resumed.gradient_accumulation_steps) == (3, 4)


@pytest.mark.parametrize(("asked", "fits", "found"), [(16, 14, 8), (16, 16, 16), (12, 2, 1), (21, 20, 7), (13, 12, 1)])
def test_the_batch_that_fits_divides_the_one_asked_for(asked, fits, found):
    def attempt(size):
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert largest_fitting(asked, attempt) == found and asked % found == 0


def test_other_errors_are_not_taken_for_memory():
    def broken(size):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        largest_fitting(8, broken)


class Numbers(IterableDataset):
    """A stream of ten points."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for number in torch.randperm(10, generator=torch.Generator().manual_seed(self.epoch)):
            x = number / 10 + 0.01 * torch.randn(())
            yield {"x": x, "y": 2 * x - 1}


class StreamTask(LineTask):
    def __init__(self, die_after=None):
        super().__init__()
        self.die_after = die_after

    def dataset(self, split):
        return Numbers() if split == "train" else super().dataset(split)

    def loss(self, model, batch):
        if self.die_after == len(self.seen):
            raise Killed
        return super().loss(model, batch)


def test_streams_train_by_steps_and_resume(tmp_path):
    changes = {"max_steps": 9, "eval_steps": 3, "checkpoint_steps": 2}
    whole = Trainer(StreamTask(), config(tmp_path / "whole", **changes))
    whole.train()
    assert len(whole.task.seen) == 9
    passes = torch.cat(whole.task.seen).mul(10).round().int().tolist()
    assert sorted(passes[:10]) == sorted(passes[10:20]) == list(range(10)) and passes[:10] != passes[10:20]
    with pytest.raises(Killed):
        Trainer(StreamTask(die_after=5), config(tmp_path / "cut", **changes)).train()
    resumed = Trainer(StreamTask(), config(tmp_path / "cut", resume=True, **changes))
    resumed.train()
    assert len(resumed.task.seen) == 5
    assert all(map(torch.equal, whole.task.seen[4:], resumed.task.seen))
    assert (tmp_path / "whole" / "best.safetensors").read_bytes() == (
        tmp_path / "cut" / "best.safetensors"
    ).read_bytes()


class OneShard(Numbers):
    """A stream that the first loading process reads alone."""

    def __iter__(self):
        worker = get_worker_info()
        return super().__iter__() if worker is None or worker.id == 0 else iter(())


@pytest.mark.timeout(60)
def test_a_stream_of_one_shard_ends_with_two_loading_processes():
    class Task(StreamTask):
        def dataset(self, split):
            return OneShard() if split == "train" else super().dataset(split)

    trainer = Trainer(Task(), config(max_steps=6, num_workers=2))
    assert trainer.train()["steps"] == 6
    seen = torch.cat(trainer.task.seen).mul(10).round().int().tolist()
    assert sorted(seen[:10]) == list(range(10))


def test_streams_need_a_number_of_steps():
    with pytest.raises(ValueError, match="give max_steps"):
        Trainer(StreamTask(), config())


def test_trackers():
    assert resolve_trackers(["none"]) == []
    assert resolve_trackers(["auto"]) == ["tensorboard"]
    with pytest.raises(ValueError, match="Unknown tracker 'mlflo'"):
        resolve_trackers(["mlflo"])
    with pytest.raises(ImportError, match="pip install wandb"):
        resolve_trackers(["wandb"])


def test_a_failing_split_does_not_lose_the_model(tmp_path):
    class BadTest(LineTask):
        def dataset(self, split):
            if split == "test" and self.broken:
                raise ValueError("label -1 in row 3")
            return super().dataset("validation" if split == "test" else split)

    task = BadTest()
    task.broken = True
    with pytest.raises(ValueError, match="label -1 in row 3") as caught:
        run_task(task, config(tmp_path))
    assert "The trained model is whole in" in caught.value.__notes__[0]
    assert (tmp_path / "model.pt").exists() and json.loads((tmp_path / "metrics.json").read_text())["steps"] == 18
    task.broken, steps = False, len(task.seen)
    figures = run_task(task, config(tmp_path, resume=True))
    assert len(task.seen) == steps and figures["test"]["num_samples"] == 7


def test_a_failing_picture_is_told_and_the_run_ends(tmp_path):
    class NoPictures(LineTask):
        def report(self, meter, split, folder):
            (folder / "half.png").write_bytes(b"half")
            raise OSError("truncated picture 7")

    with pytest.warns(UserWarning, match="Could not draw the pictures of the validation split: OSError: trunc"):
        figures = run_task(NoPictures(), config(tmp_path))
    assert json.loads((tmp_path / "metrics.json").read_text())["validation"] == figures["validation"]
    assert (tmp_path / "model.pt").exists() and (tmp_path / "curves.png").exists()
    listed = json.loads((tmp_path / "written.json").read_text())["files"]
    assert {"half.png", "curves.png", "model.pt", "best.safetensors", "run.json"} <= set(listed)


def test_overwriting_leaves_nothing_of_the_run_before(tmp_path):
    run_task(LineTask(), config(tmp_path, report_to=["tensorboard"]))
    first = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    (tmp_path / "notes.txt").write_text("mine")
    Trainer(LineTask(), config(tmp_path, overwrite_output_dir=True)).close()
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"notes.txt", "run.json", "written.json", "run.lock"} and len(first) > 15


def test_a_card_written_by_hand_is_left_as_it_is(tmp_path):
    class Publishing(LineTask):
        def save(self, model, folder):  # as PEFT does, which rewrites the card
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model" / "README.md").write_text("[More Information Needed]")

    run_task(Publishing(), config(tmp_path))
    card = tmp_path / "model" / "README.md"
    assert "Written by mona-peft" in card.read_text()
    card.write_text("# My own words\n")
    run_task(Publishing(), config(tmp_path, resume=True))
    assert card.read_text() == "# My own words\n"


def test_curves_are_drawn_for_any_task(tmp_path):
    run_task(LineTask(), config(tmp_path))
    assert (tmp_path / "curves.png").stat().st_size > 5000
