"""Damaged checkpoints: a run resumes to the same weights from what is whole, or says which file is not."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import torch

from mona_peft.finetuning.training import Trainer, TrainingConfig
from tests.finetuning.training.toy import LineTask

from .mangle import mangle_file

PARTIAL = "partial"


class Stopped(LineTask):
    """The line, whose training is stopped after a few steps."""

    def loss(self, model, batch):
        if len(self.seen) == 6:
            raise KeyboardInterrupt
        return super().loss(model, batch)


def train(folder: Path, task: LineTask, resume: bool = False) -> dict[str, torch.Tensor]:
    """Fit the line for a few steps and give the weights."""
    config = TrainingConfig(
        output_dir=str(folder),
        num_epochs=3,
        batch_size=8,
        checkpoint_steps=2,
        logging_steps=1,
        save_total_limit=2,
        report_to=["none"],
        progress_bar=False,
        resume=resume,
        cpu=True,
    )
    trainer = Trainer(task, config)
    try:
        trainer.train()
        return {name: tensor.clone() for name, tensor in trainer.bare_model.state_dict().items()}
    finally:
        trainer.close()


def setup(root: Path) -> None:
    """A run that was stopped on its way, and the weights that it has at its end."""
    torch.save(train(root / "whole", LineTask()), root / "whole.pt")
    with contextlib.suppress(KeyboardInterrupt):
        train(root / PARTIAL, Stopped())


def attack(rng: random.Random, folder: Path) -> None:
    """Resume a stopped run one of whose files was spoilt."""
    run = folder / "run"
    shutil.copytree(folder.parent / PARTIAL, run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    done = mangle_file(rng, rng.choice(files))
    weights = train(run, LineTask(), resume=True)
    expected = torch.load(folder.parent / "whole.pt")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items()), done
