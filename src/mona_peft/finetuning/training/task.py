"""What the training loop asks of a task: data -> model -> loss -> metrics.

The loop knows no kind of target. A task gives it map-style data sets, a way to collate, a loss, predictions with the
batch as first dimension, and a meter that turns them into figures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils.data import Dataset

#: What a task collates: a mapping that processes can move to their devices.
BatchT = TypeVar("BatchT")


class Meter(ABC):
    """Collects the predictions of one evaluation."""

    @abstractmethod
    def update(self, predictions: Any) -> None:
        """Take in what [`Task.predict`] gave, gathered from all processes, each sample once."""

    @abstractmethod
    def compute(self) -> dict[str, object]:
        """Give the figures over everything taken in."""

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """How many samples were taken in."""


class Task(ABC, Generic[BatchT]):
    """One thing to learn, in batches of one type.

    Everything random in `build_model` and in the data sets draws from the global generators, which the loop has seeded
    (by sample, inside a data set).
    """

    #: Name of the task as the Hub writes it, such as `image-classification`.
    name: str = ""
    #: Which metric of the meter selects the best weights, unless the run names another, and which way it improves.
    best_metric: str = "accuracy"
    greater_is_better: bool = True
    #: True where predictions are lists of objects (boxes) rather than tensors.
    gathers_objects: bool = False

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Give the model, prepared by [`apply_method`], on the CPU."""

    def calibrate(self, model: nn.Module, device: torch.device, batch_size: int) -> None:
        """Fit the new model to the training data where its method asks for that (see [`Method`]).

        Called before a training that starts from step 0, not before one that is resumed; every process does the same.

        Args:
            model (`nn.Module`): What `build_model` gave.
            device (`torch.device`): Where it may run.
            batch_size (`int`): Samples a batch.
        """

    @abstractmethod
    def dataset(self, split: str) -> Dataset | None:
        """Give the data set of `train`, `validation` or `test`; `None` if the task has no such split."""

    @abstractmethod
    def collate(self, split: str) -> Callable[[list[Any]], BatchT]:
        """Give the function that makes a batch of items; it may draw random numbers when `split` is `train`."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: BatchT) -> torch.Tensor:
        """Give the scalar loss of a training batch, averaged over its samples."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: BatchT) -> Any:
        """Give what the meter needs of a batch: tensors (or, with `gathers_objects`, a list) one row a sample."""

    @abstractmethod
    def meter(self, split: str) -> Meter:
        """Give an empty meter of a split; it may hold what is true of the split, which predictions need not carry."""

    def metrics(self) -> dict[str, bool]:
        """Give the meter's figures that can select the best weights, each with whether greater is better."""
        return {self.best_metric: self.greater_is_better}

    def describe(self) -> dict[str, object]:
        """Settings that tell this task from another: a run only resumes with the same ones. JSON values."""
        return {}

    def facts(self) -> dict[str, str]:
        """What the model card says of the run: `base_model`, `dataset`, `method`, where known."""
        return {}

    def usage(self, repository: str) -> str:
        """Python code that loads the saved model from `repository` and predicts."""
        return f'import mona_peft\n\nmodel, processor = mona_peft.load("{repository}")'

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what a user needs to predict into `folder / "model"`, the repository that may be pushed."""

    def report(self, meter: Meter, split: str, folder: Path) -> None:
        """Draw pictures of an evaluation into `folder`."""
