"""Nothing that is not finite is ever saved, and looking for it costs a step nothing."""

import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from mona_peft.finetuning.training import Trainer
from tests.finetuning.training.test_loop import config
from tests.finetuning.training.toy import LineMeter, LineTask


class OnceBrokenTask(LineTask):
    """One loss that is no number, after which the loss is a number again, of weights that are none."""

    def __init__(self, at, validation_size=7):
        super().__init__(validation_size=validation_size)
        self.at = at

    def describe(self):
        return {}

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if len(self.seen) == self.at:
            return loss * float("nan")
        return loss if len(self.seen) < self.at else loss.nan_to_num()


@pytest.mark.parametrize("validation_size", [7, None])
@pytest.mark.parametrize("changes", [{}, {"checkpoint_steps": 2}, {"eval_steps": 5, "checkpoint_steps": 3}])
def test_one_broken_step_is_never_saved_and_the_run_recovers(tmp_path, validation_size, changes):
    changes = {**changes, "logging_steps": 50}
    whole = Trainer(LineTask(validation_size=validation_size), config(tmp_path / "whole", **changes))
    whole.train()
    broken = OnceBrokenTask(8, validation_size)
    with pytest.raises(FloatingPointError, match="weight is not finite at step .*--resume goes on"):
        Trainer(broken, config(tmp_path / "cut", **changes)).train()
    for path in (tmp_path / "cut").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
    mended = OnceBrokenTask(-1, validation_size)
    mended.loss = lambda model, batch: LineTask.loss(mended, model, batch)
    Trainer(mended, config(tmp_path / "cut", resume=True, **changes)).train()
    one, other = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_metric_that_is_no_number_is_never_the_best(tmp_path):
    class Undefined(LineTask):
        def meter(self, split):
            meter = LineMeter()
            plain, number = meter.compute, len(self.seen) // 6
            meter.compute = lambda: {"error": plain()["error"] if number == 2 else float("nan")}
            return meter

    figures = Trainer(Undefined(), config(tmp_path)).train()
    assert figures["best_step"] == 12 and figures["best_error"] > 0


def test_a_step_reads_nothing_back(tmp_path):
    """Outside of the optimiser, whose count of steps is on the CPU wherever the model is."""

    class Reads(TorchDispatchMode):
        places: list[str] = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                frame, place = sys._getframe(), ""
                while frame is not None and "optim" not in place:
                    place, frame = frame.f_code.co_filename, frame.f_back
                if "optim" not in place:
                    self.places.append("read")
            return function(*args, **(kwargs or {}))

    def reads(steps, **changes):
        trainer = Trainer(LineTask(), config(tmp_path / str(changes), eval_steps=100, num_epochs=5, **changes))
        counts, batch, after = [], trainer.train_batch, trainer._after_step

        def counted(part, *arguments):
            before = len(Reads.places)
            with Reads():
                result = part(*arguments)
            counts.append(len(Reads.places) - before)
            return result

        trainer.train_batch, trainer._after_step = partial(counted, batch), partial(counted, after)
        trainer.train()
        return [sum(counts[start : start + 2]) for start in range(0, 2 * steps, 2)]

    assert reads(10, logging_steps=1000, checkpoint_steps=1000) == [0] * 10
    with_checkpoints = reads(10, logging_steps=1000, checkpoint_steps=5)
    assert with_checkpoints[4] > 0 and with_checkpoints[:4] == [0] * 4  # the test can see a read
