"""What a study asks of the thing it compares on: data, backbones and recipe of one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.training import Task, TrainingConfig


class Testbed(ABC):
    """One data set and task on which variants are compared.

    The splits `validation` and `test` must be different data: learning rates are chosen on the first.
    """

    #: What to call it in tables and plots.
    title: str = ""
    #: The metric of the test split that tables show and what to call it. Those of studies are shares, better when
    #: greater.
    metric: str = "accuracy"
    metric_name: str = "accuracy"
    #: Runs of each variant where no number is asked for.
    seeds: int = 3
    #: The grid of learning rates where none is asked for; around that of the recipe if empty.
    learning_rates: tuple[float, ...] = ()
    #: Rates that a grid grows along while the best of it is at its end; none where grids stay as they are.
    ladder: tuple[float, ...] = ()

    def prepare(self, variants: list[Variant], folder: Path) -> None:  # noqa: B027 (most need nothing)
        """Make what all runs need, such as pretrained backbones, in `folder`, unless it is there."""

    @abstractmethod
    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """Give the task of one run.

        Args:
            variant (`Variant`): What to train.
            seed (`int`): Of the run; it may draw the training data.
            folder (`Path`): Where `prepare` wrote.
        """

    @abstractmethod
    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """Give the settings of one run's loop."""

    def first_rates(self, variant: Variant) -> tuple[float, ...]:
        """The variant's own grid of learning rates; empty for the common one."""
        return ()

    def describe(self) -> dict[str, object]:
        """Settings that tell the testbed from another: a study only continues with the same ones. JSON values."""
        return {}

    def sizes(self) -> str:
        """How much data there is, in words; nothing where it is not known before it is loaded."""
        return ""
