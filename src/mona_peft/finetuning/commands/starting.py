"""What a beginner need not give: the rate and the epochs that suit a method, and a folder for the run."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.sources.config import NAMED_SETS, SourceConfig
from mona_peft.finetuning.environment import say
from mona_peft.finetuning.methods import METHODS
from mona_peft.finetuning.training.config import TrainingConfig

OUTPUTS = Path("outputs")
#: Share of the training images to validate on, of data that come without a validation split and without a name.
HELD_OUT = 0.1


@dataclass(frozen=True)
class Start:
    """Where to start on a task.

    Args:
        num_epochs (`int`): Passes over the training data.
        learning_rates (`Mapping[str, float]`): Rates by method.
        other_rate (`float`, *optional*): Of the methods that are not among them; what each says itself if left out.
    """

    num_epochs: int
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    other_rate: float | None = None

    def learning_rate(self, method: str) -> float:
        """The rate to start with."""
        return self.learning_rates.get(method, self.other_rate or METHODS[method].learning_rate)


#: Necks and heads that start at random train with every method and want lower rates than a linear head.
DENSE = Start(50, {"full": 3e-5, "partial-1": 1e-4, "fixed": 1e-3, "vpt": 1e-3}, other_rate=3e-4)
STARTS = {
    "classification": Start(20),
    "semantic_segmentation": DENSE,
    "detection": DENSE,
    "instance_segmentation": DENSE,
}


def with_usual(training: TrainingConfig, given: Collection[str], task: str, method: str) -> TrainingConfig:
    """Fill in rate and epochs where neither flags nor recipe gave them, and say so in a line.

    Args:
        training (`TrainingConfig`): As it was read.
        given (`Collection[str]`): Settings that were given.
        task (`str`): A key of `STARTS`.
        method (`str`): A key of `METHODS`.
    """
    start = STARTS[task]
    usual: dict[str, Any] = {}
    if "learning_rate" not in given:
        usual["learning_rate"] = start.learning_rate(method)
    if not {"num_epochs", "max_steps"} & set(given):
        usual["num_epochs"] = start.num_epochs
    if usual:
        listed = " ".join(f"--{name} {value:g}" for name, value in usual.items())
        say(f"Not given, so the usual for {method}: {listed}")
    return replace(training, **usual)


def with_launched(training: TrainingConfig, given: Collection[str]) -> TrainingConfig:
    """Take the mixed precision that `accelerate launch` was told where neither flags nor recipe gave one."""
    from mona_peft.finetuning.training.launching import launched_precision

    precision = launched_precision()
    if precision is None or "mixed_precision" in given:
        return training
    return replace(training, mixed_precision=precision)


def with_validation(data: SourceConfig, given: Collection[str]) -> SourceConfig:
    """Hold a share of the training images out where the data has no validation split and nothing was said of it.

    Official splits of data sets that go by name stay whole, and a stream cannot be cut.
    """
    told = "validation_fraction" in given or data.dataset in NAMED_SETS or getattr(data, "streaming", False)
    return data if told else replace(data, validation_fraction=HELD_OUT)


def describe_rates(task: str) -> str:
    """The rates of the methods on a task, for a help text."""
    by_rate: dict[float, list[str]] = {}
    for method in METHODS:
        by_rate.setdefault(STARTS[task].learning_rate(method), []).append(method)
    *others, most = sorted(by_rate.items(), key=lambda pair: len(pair[1]))
    return " (default: " + ", ".join([f"{most[0]:g}", *(f"{r:g} for {' '.join(names)}" for r, names in others)]) + ")"


def with_folder(training: TrainingConfig, dataset: str, method: str) -> TrainingConfig:
    """Give the run a new folder under `outputs/`, named by data and method, where none was given.

    Raises:
        ValueError: If a run is to be resumed, or several processes train: each would choose for itself.
    """
    if training.output_dir:
        return training
    if training.resume or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        why = "--resume goes on in a folder" if training.resume else "several processes train together"
        raise ValueError(f"{why[0].upper()}{why[1:]}: name it with --output_dir.")
    stem = f"{Path(dataset.rstrip('/')).name or 'data'}-{method}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    folder = next(OUTPUTS / name for name in names if not (OUTPUTS / name).exists())
    say(f"Everything goes to {folder} (--output_dir names another folder).")
    return replace(training, output_dir=str(folder))
