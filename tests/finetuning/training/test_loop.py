"""The loop on a task that is no classification."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mona_peft.finetuning.training import Trainer, TrainingConfig
from mona_peft.finetuning.training.ownership import OwnFiles
from mona_peft.finetuning.training.run_folder import read_log
from tests.finetuning.training.toy import LineTask


def config(folder=None, **changes) -> TrainingConfig:
    values = dict(
        output_dir=str(folder) if folder else None,
        num_epochs=3,
        batch_size=4,
        learning_rate=0.05,
        report_to=["none"],
        progress_bar=False,
        logging_steps=1,
        cpu=True,
    )
    return TrainingConfig(**values | changes)


def test_it_learns_and_keeps_the_best(tmp_path):
    trainer = Trainer(LineTask(), config(tmp_path / "run", num_epochs=30))
    start = trainer.evaluate("validation")[0]["error"]
    figures = trainer.train()
    records = [record for record in read_log(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "validation"]
    errors = [record["error"] for record in records]
    assert len(errors) == 30 and min(errors) < 0.2 * start
    assert figures["best_error"] == min(errors)
    assert records[errors.index(min(errors))]["step"] == figures["best_step"]
    assert trainer.evaluate("validation")[0]["error"] == pytest.approx(min(errors))
    assert errors[-1] != min(errors)  # else the line before would hold without loading the best
    trainer.save(figures)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == figures["steps"]
    assert (tmp_path / "run" / "model.pt").exists()


def test_the_log_has_loss_rate_speed_and_memory(tmp_path):
    Trainer(LineTask(), config(tmp_path)).train()
    records = [record for record in read_log(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert [record["step"] for record in records] == list(range(1, 19))
    names = {"loss", "learning_rate", "grad_norm", "step_seconds", "samples_per_second", "data_wait", "memory_gib"}
    assert names <= records[0].keys()
    assert records[-1]["epoch"] == 3


def test_samples_a_second_count_the_samples_there_are(monkeypatch):
    trainer = Trainer(LineTask(train_size=18), config(num_epochs=2, batch_size=16, logging_steps=100))
    counted, reset = [], trainer.stopwatch.reset
    monkeypatch.setattr(trainer.stopwatch, "reset", lambda: (counted.append(trainer.stopwatch.samples), reset()))
    trainer.train()
    assert sum(counted) == 36


def test_accumulation_steps_like_one_large_batch():
    """20 samples in 5 batches of 4, or in 1 of 20 seen as 5 parts: the same gradient, so the same weights."""

    class PlainTask(LineTask):
        def __init__(self):
            super().__init__(train_size=20)

        def build_model(self):
            torch.manual_seed(3)
            return torch.nn.Linear(1, 1)

        def collate(self, split):
            return LineTask.collate(self, "validation")

    whole = Trainer(PlainTask(), config(batch_size=20, num_epochs=4))
    parts = Trainer(PlainTask(), config(batch_size=4, gradient_accumulation_steps=5, num_epochs=4))
    assert whole.train()["steps"] == parts.train()["steps"] == 4
    assert torch.allclose(whole.bare_model.weight, parts.bare_model.weight, atol=1e-6)
    assert parts.last_loss == pytest.approx(whole.last_loss, rel=1e-5), "the mean of the five, not the last"
    assert len(parts.task.seen) == 20


def test_a_short_last_group_is_averaged_over_its_batches(tmp_path):
    """Of five batches with the same gradient, in groups of four and one, both steps have its norm."""

    class SteadyTask(LineTask):
        def build_model(self):
            return torch.nn.Linear(1, 1)

        def loss(self, model, batch):
            return sum(parameter.sum() for parameter in model.parameters())

    settings = config(tmp_path, num_epochs=2, gradient_accumulation_steps=4, max_grad_norm=100.0)
    trainer = Trainer(SteadyTask(train_size=20), settings)
    trainer.train()
    norms = [record["grad_norm"] for record in read_log(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert norms == pytest.approx([2**0.5] * 4)


def test_clipping_bounds_the_gradient(tmp_path):
    trainer = Trainer(LineTask(), config(tmp_path, max_grad_norm=1e-3, max_steps=1))
    trainer.train()
    (record,) = [record for record in read_log(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert record["grad_norm"] > 1e-3  # reported as it was before


def test_max_steps_and_early_stopping():
    assert Trainer(LineTask(), config(max_steps=5)).train()["steps"] == 5
    assert Trainer(LineTask(), config(max_steps=20)).train()["steps"] == 20  # 3 epochs have 18
    stubborn = config(num_epochs=50, learning_rate=1e-12, early_stopping_patience=2)
    assert Trainer(LineTask(), stubborn).train()["steps"] < 50 * 6


def test_no_validation_split_keeps_the_last():
    task = LineTask(validation_size=None)
    trainer = Trainer(task, config(num_epochs=2))
    figures = trainer.train()
    assert figures["best_error"] is None and figures["best_step"] == figures["steps"]
    assert trainer.evaluate("validation") is None


def test_loss_that_is_no_number_stops_the_run():
    class BrokenTask(LineTask):
        def loss(self, model, batch):
            return super().loss(model, batch) * float("nan")

    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        Trainer(BrokenTask(), config()).train()


def test_unknown_metric_is_named():
    with pytest.raises(ValueError, match=r"no metric 'accuracy'.*error"):
        Trainer(LineTask(), config(metric_for_best="accuracy"))


class Killed(Exception):
    pass


class MortalTask(LineTask):
    """Dies after a number of training batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def loss(self, model, batch):
        if self.left == 0:
            raise Killed
        self.left -= 1
        return super().loss(model, batch)


@pytest.mark.parametrize("die_at", [1, 7, 12, 17])
@pytest.mark.parametrize("checkpoint_steps", [None, 1, 4])
def test_resumed_run_ends_bit_identical(tmp_path, die_at, checkpoint_steps):
    changes = {"checkpoint_steps": checkpoint_steps, "gradient_accumulation_steps": 2, "eval_steps": 2}
    whole = Trainer(LineTask(), config(tmp_path / "whole", **changes))
    whole.train()
    with pytest.raises(Killed):
        Trainer(MortalTask(die_at), config(tmp_path / "cut", **changes)).train()
    torch.manual_seed(99)
    resumed = Trainer(LineTask(), config(tmp_path / "cut", resume=True, **changes))
    resumed.train()
    seen = resumed.task.seen
    if die_at >= 12:  # the first checkpoint of all variants comes after 8 batches
        assert len(seen) < len(whole.task.seen), "the resumed run started over"
    assert all(map(torch.equal, whole.task.seen[-len(seen) :], seen))
    for name in ("best.safetensors", "checkpoint-00000009/trainable.safetensors"):
        first, second = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    timed = ("step_seconds", "samples_per_second", "data_wait", "memory_gib")
    logs = [
        [{k: v for k, v in record.items() if k not in timed} for record in read_log(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "cut")
    ]
    assert logs[0] == logs[1]


def test_checkpoints_hold_what_trains_and_are_limited(tmp_path):
    Trainer(LineTask(), config(tmp_path, num_epochs=5, save_total_limit=2)).train()
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert names == ["checkpoint-00000024", "checkpoint-00000030"]
    weights = load_file(tmp_path / names[-1] / "trainable.safetensors")
    assert "0.bias" not in weights and "0.weight" in weights and "1.running_mean" in weights


def test_half_written_checkpoints_are_skipped_with_a_warning(tmp_path):
    Trainer(LineTask(), config(tmp_path / "run", num_epochs=2)).train()
    whole = load_file(tmp_path / "run" / "checkpoint-00000012" / "trainable.safetensors")
    broken = tmp_path / "run" / "checkpoint-00000012" / "optimizer.bin"
    broken.write_bytes(broken.read_bytes()[:-10])
    (tmp_path / "run" / "checkpoint-00000013.incomplete").mkdir()
    OwnFiles.read(tmp_path / "run").add("checkpoint-00000013.incomplete/")
    with pytest.warns(UserWarning, match="Skipping") as caught:
        resumed = Trainer(LineTask(), config(tmp_path / "run", num_epochs=2, resume=True))
    resumed.train()
    messages = " ".join(str(warning.message) for warning in caught)
    assert "optimizer.bin has" in messages and "not finished" in messages
    assert len(resumed.task.seen) == 6
    again = load_file(tmp_path / "run" / "checkpoint-00000012" / "trainable.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not list((tmp_path / "run").glob("*.incomplete"))


def test_finished_run_resumes_without_training(tmp_path):
    Trainer(LineTask(), config(tmp_path)).train()
    best = (tmp_path / "best.safetensors").read_bytes()
    resumed = Trainer(LineTask(), config(tmp_path, resume=True))
    resumed.train()
    assert resumed.task.seen == [] and (tmp_path / "best.safetensors").read_bytes() == best


class CalibratedTask(LineTask):
    """Notes what it was asked to calibrate, which changes the model for good."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def calibrate(self, model, device, batch_size):
        assert model[0].weight.grad is None and not self.seen
        self.calls.append((device.type, batch_size))
        with torch.no_grad():
            model[0].bias.fill_(7.0)  # frozen: the loop itself never changes it


def test_a_run_calibrates_once_when_it_starts_and_not_when_it_resumes(tmp_path):
    """What it sets in buffers and trained parameters is in the checkpoints."""
    first = CalibratedTask()
    Trainer(first, config(tmp_path, num_epochs=1, eval_batch_size=9)).train()
    assert first.calls == [("cpu", 9)]
    again = CalibratedTask()
    Trainer(again, config(tmp_path, num_epochs=1, eval_batch_size=9, resume=True)).train()
    assert again.calls == []
    shutil.rmtree(tmp_path / "checkpoint-00000006")
    restarted = CalibratedTask()
    trainer = Trainer(restarted, config(tmp_path, num_epochs=1, resume=True))
    assert restarted.calls == [("cpu", 4)] and trainer.bare_model[0].bias.eq(7).all()


@pytest.mark.parametrize(
    "first, then, message",
    [
        ({}, {"no_checkpoints": True}, "Leave --no_checkpoints out"),
        ({"no_checkpoints": True}, {"no_checkpoints": True}, "no checkpoint to go on from.*--overwrite_output_dir"),
        ({"no_checkpoints": True}, {}, "no checkpoint to go on from.*finetuning.pushing"),
    ],
)
def test_a_resume_that_would_start_over_loses_nothing(tmp_path, first, then, message):
    Trainer(LineTask(), config(tmp_path, **first)).train()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for _ in range(2):  # the refused attempt leaves no trace that would let the next one in
        with pytest.raises(ValueError, match=message):
            Trainer(LineTask(), config(tmp_path, resume=True, **then))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_ended_run_whose_checkpoints_are_gone_is_not_trained_again(tmp_path):
    trainer = Trainer(LineTask(), config(tmp_path))
    trainer.save(trainer.train())
    for path in tmp_path.glob("checkpoint-*"):
        shutil.rmtree(path)
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        Trainer(LineTask(), config(tmp_path, resume=True))


def test_resuming_and_overwriting_exclude_each_other():
    with pytest.raises(ValueError, match="leave one of them out"):
        config(resume=True, overwrite_output_dir=True)


def test_resume_without_checkpoint_starts_over(tmp_path):
    Trainer(LineTask(), config(tmp_path))
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    resumed = Trainer(LineTask(), config(tmp_path, resume=True))
    assert resumed.train()["steps"] == 18
