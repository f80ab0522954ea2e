"""Studies whose runs are made up, for what does not depend on training, and a small backbone for those that train."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from mona_peft.finetuning.study.records import Record, RunKey
from mona_peft.finetuning.study.runs import Study
from mona_peft.finetuning.study.testbeds.testbed import Testbed
from mona_peft.finetuning.training import TrainingConfig


class FakeTestbed(Testbed):
    title = "made-up figures"

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.prepared = 0

    def describe(self):
        return {"benchmark": self.name}

    def prepare(self, variants, folder):
        self.prepared += 1

    def task(self, variant, seed, folder):
        raise AssertionError("no run of this study trains")

    def training(self, learning_rate, seed):
        return TrainingConfig(learning_rate=learning_rate, seed=seed)


class FakeStudy(Study):
    """Figures come from `figure(label, rate, seed)` in place of training."""

    def __init__(self, plan, folder: Path, figure, testbed=None) -> None:
        super().__init__(testbed or FakeTestbed(), plan, folder)
        self.figure = figure
        self.figures: dict[str, float] = {}
        self.done: list[RunKey] = []

    def run_one(self, key: RunKey) -> Record:
        self.done.append(key)
        figures = self.figure(key.label, key.learning_rate, key.seed)
        own = asdict(self.variants[key.label]) | {"rate": key.learning_rate, "seed": key.seed}
        made = record(validation=figures[0], test=figures[1], **own)
        return replace(made, test=made.test | self.figures)


def record(label, rate, seed, validation, test, **values) -> Record:
    losses = [[step, 1.0 / step + 0.01 * seed] for step in range(1, 6)]
    defaults = {"method": "mona", "backbone_trainable": 10, "backbone_total": 100, "losses": losses}
    figures = {"accuracy": test}
    own = {"label": label, "learning_rate": rate, "seed": seed, "validation": validation, "test": figures}
    return Record(**defaults | values | own)


def write_dinov2(folder: Path, side: int, **sizes: int) -> None:
    """A small DINOv2 of random weights for images of `side` pixels, with its processor, as the material has it."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_attention_heads=2, image_size=side, **sizes)
    Dinov2Model(config).save_pretrained(folder)
    crop = {"height": side, "width": side}
    BitImageProcessor(size={"shortest_edge": side}, crop_size=crop).save_pretrained(folder)
