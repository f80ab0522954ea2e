"""The moving average of the weights: what it is, that it is evaluated and kept, and that it survives a kill."""

import pytest
import torch
from safetensors.torch import load_file

from mona_peft.finetuning.training import Trainer
from tests.finetuning.training.test_loop import Killed, MortalTask, config
from tests.finetuning.training.toy import LineTask

DECAY = 0.8


class Watched(Trainer):
    """Notes the weights after every step, and those that are evaluated."""

    def __init__(self, *args):
        super().__init__(*args)
        self.weights = [self.trained()]
        self.evaluated = []

    def trained(self):
        return {name: p.detach().clone() for name, p in self.bare_model.named_parameters() if p.requires_grad}

    def _after_step(self, *args):
        self.weights.append(self.trained())
        super()._after_step(*args)
        assert all(torch.equal(self.weights[-1][name], tensor) for name, tensor in self.trained().items())

    def evaluate(self, split):
        self.evaluated.append(self.trained())
        return super().evaluate(split)


def averages(weights):
    """By hand, of the weights before the first step and after each."""
    found = [weights[0]]
    for step, now in enumerate(weights[1:], 1):
        decay = min(DECAY, (1 + step) / (10 + step))
        found.append({name: decay * found[-1][name] + (1 - decay) * now[name] for name in now})
    return found


def close(one, other):
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], atol=1e-6) for n in one)


def test_the_average_is_evaluated_and_kept(tmp_path):
    trainer = Watched(LineTask(), config(tmp_path, ema_decay=DECAY))
    figures = trainer.train()
    expected = averages(trainer.weights)
    assert len(expected) == 19 and close(trainer.averaged.state, expected[-1])
    assert all(close(one, expected[step]) for one, step in zip(trainer.evaluated, (6, 12, 18), strict=True))
    assert not close(expected[-1], trainer.weights[-1])  # else nothing would be told apart
    best = load_file(tmp_path / "best.safetensors")
    assert close({name: best[name] for name in expected[0]}, expected[figures["best_step"]])
    assert close(trainer.trained(), expected[figures["best_step"]])
    assert "0.bias" not in trainer.averaged.state  # it does not train


def test_training_goes_as_without_it(tmp_path):
    found = []
    for name, decay in (("plain", None), ("averaged", DECAY)):
        run = Watched(LineTask(), config(tmp_path / name, ema_decay=decay))
        run.train()
        found.append(run.weights)
    assert all(torch.equal(one[n], two[n]) for one, two in zip(*found, strict=True) for n in one)


@pytest.mark.parametrize("die_at", [7, 12, 17])
def test_a_resumed_run_has_the_same_average(tmp_path, die_at):
    changes = {"checkpoint_steps": 2, "eval_steps": 3, "ema_decay": DECAY}
    whole = Trainer(LineTask(), config(tmp_path / "whole", **changes))
    whole.train()
    with pytest.raises(Killed):
        Trainer(MortalTask(die_at), config(tmp_path / "cut", **changes)).train()
    resumed = Trainer(LineTask(), config(tmp_path / "cut", resume=True, **changes))
    resumed.train()
    assert len(resumed.task.seen) < len(whole.task.seen)
    assert all(torch.equal(whole.averaged.state[n], resumed.averaged.state[n]) for n in whole.averaged.state)
    for name in ("best.safetensors", "checkpoint-00000018/averaged.safetensors"):
        one, other = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_damaged_best_weights_are_made_of_the_average(tmp_path):
    changes = {"ema_decay": DECAY}
    Trainer(LineTask(validation_size=None), config(tmp_path, **changes)).train()
    # Clones: what is loaded is the file itself, in memory.
    before = {name: tensor.clone() for name, tensor in load_file(tmp_path / "best.safetensors").items()}
    (tmp_path / "best.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="they are taken from there"):
        again = Trainer(LineTask(validation_size=None), config(tmp_path, resume=True, **changes))
        again.train()
    after = load_file(tmp_path / "best.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_another_decay_is_another_run(tmp_path):
    Trainer(LineTask(), config(tmp_path, ema_decay=DECAY)).train()
    with pytest.raises(ValueError, match=r"ema_decay: 0\.8 then, None now"):
        Trainer(LineTask(), config(tmp_path, resume=True))
    with pytest.raises(ValueError, match="ema_decay is 1"):
        config(tmp_path, ema_decay=1.0)
