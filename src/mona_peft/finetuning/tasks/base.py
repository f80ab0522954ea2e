"""What every task of this package has in common: its settings of model and method, and what it says and saves."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning import sections
from mona_peft.finetuning.data.data_set import DataSet, describe_data
from mona_peft.finetuning.model_card import usage_for
from mona_peft.finetuning.repository import save_repository
from mona_peft.finetuning.training.task import BatchT, Task

from .config import ModelConfig

DataT = TypeVar("DataT", bound=DataSet)
ConfigT = TypeVar("ConfigT", bound=ModelConfig)


class DataTask(Task[BatchT], Generic[BatchT, DataT, ConfigT]):
    """A task on a data set.

    Args:
        data (`DataSet`): The data set.
        config (`ModelConfig`): Model, method and recipe.
    """

    def __init__(self, data: DataT, config: ConfigT) -> None:
        self.data = data
        self.config = config

    def describe(self) -> dict[str, object]:
        """Recipe and data set; without what the recipe has for other methods."""
        recipe = {name: value for name, value in asdict(self.config).items() if name != sections.KEY}
        return {**recipe, **describe_data(self.data)}

    def facts(self) -> dict[str, str]:
        """Base model, data set and method."""
        config = self.config
        return {"base_model": config.model, "dataset": self.data.name, "method": config.method}

    def usage(self, repository: str) -> str:
        """Load and predict."""
        return usage_for(self.name, repository)

    @abstractmethod
    def saved_processor(self) -> BaseImageProcessor:
        """Give the image processor that prepares images as an evaluation of this task does."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write adapter or weights, head, label names and image processor to `folder / "model"`."""
        save_repository(model, self.saved_processor(), folder / "model")
