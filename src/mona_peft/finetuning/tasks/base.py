"""What every task of this package has in common: its settings of model and method, and what it says and saves."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mona_peft.finetuning.data.fingerprint import describe_data
from mona_peft.finetuning.methods import check_method
from mona_peft.finetuning.model_card import usage_for
from mona_peft.finetuning.repository import save_repository
from mona_peft.finetuning.settings import Settings, option
from mona_peft.finetuning.training.task import Task


@dataclass
class ModelConfig(Settings):
    """Model and method, as every task has them."""

    model_name_or_path: str = option("microsoft/swin-tiny-patch4-window7-224", "Pretrained model: Hub id or folder.")
    method: str = option("mona", "Fine-tuning method, a name in mona_peft.finetuning.methods.")
    method_options: dict[str, Any] = option(
        {}, 'Settings of the method, as JSON (or a mapping, in a recipe): {"r": 16}.'
    )
    drop_path: float | None = option(
        None, "Stochastic depth rate of the last block; the model's own if unset.", least=0, below=1
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        check_method(self.method, self.method_options)


class DataTask(Task):
    """A task on a data set with `name` and `splits`.

    Args:
        data (`Any`): The data set.
        config (`ModelConfig`): Model, method and recipe.
    """

    def __init__(self, data: Any, config: Any) -> None:
        self.data = data
        self.config = config

    def describe(self) -> dict[str, Any]:
        """Recipe and data set."""
        return {**asdict(self.config), **describe_data(self.data)}

    def facts(self) -> dict[str, Any]:
        """Base model, data set and method."""
        config = self.config
        return {"base_model": config.model_name_or_path, "dataset": self.data.name, "method": config.method}

    def usage(self, repository: str) -> str:
        """Load and predict."""
        return usage_for(self.name, repository)

    @abstractmethod
    def saved_processor(self) -> Any:
        """Give the image processor that prepares images as an evaluation of this task does."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write adapter or weights, head, label names and image processor to `folder / "model"`."""
        save_repository(model, self.saved_processor(), folder / "model")
