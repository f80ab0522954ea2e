"""What every task of this package has in common: its settings of model and method, and what it says and saves."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from mona_peft.finetuning import sections
from mona_peft.finetuning.data.fingerprint import describe_data
from mona_peft.finetuning.methods import check_method
from mona_peft.finetuning.repository import save_repository
from mona_peft.finetuning.settings import Settings, check_names, check_values, option, read_options
from mona_peft.finetuning.training.task import Task


@dataclass
class ModelConfig(Settings):
    """Model and method, as every task has them."""

    model: str = option("microsoft/swin-tiny-patch4-window7-224", "Pretrained model: Hub id or folder.")
    method: str = option("mona", "Fine-tuning method, a name in mona_peft.finetuning.methods.")
    method_options: dict[str, Any] = option(
        {}, 'Settings of the method, as JSON (or a mapping, in a recipe): {"r": 16}.'
    )
    drop_path: float | None = option(
        None, "Stochastic depth rate of the last block; the model's own if unset.", least=0, below=1
    )
    by_method: dict[str, Any] = option(
        {},
        'What a method has of its own, as JSON or in a recipe: {"full": {"learning_rate": 6e-5, "drop_path": 0.3}}.',
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        check_method(self.method, self.method_options)
        self.by_method = {name: read_section(name, section) for name, section in self.by_method.items()}


@dataclass
class MethodSection(Settings):
    """What a recipe has for one method alone."""

    options: dict[str, Any] = option({}, "Settings of the method.")
    learning_rate: float | None = option(None, "Its learning rate, in place of the recipe's.", above=0)
    drop_path: float | None = option(None, "Its drop path, in place of the recipe's.", least=0, below=1)


def read_section(method: str, section: Any) -> dict[str, Any]:
    """Check what a recipe has for one method.

    Args:
        method (`str`): A key of `METHODS`.
        section (`Any`): What stands under its name in `by_method`.

    Returns:
        `dict[str, Any]`: The fields of `MethodSection`.

    Raises:
        `ValueError`: If there is no such method, or no such setting, or a value does not fit.
    """
    owner = f"The section of {method!r} in by_method"
    given = read_options(owner, section)
    check_names(owner, given, [entry.name for entry in fields(MethodSection)])
    try:
        settings = MethodSection(**check_values(MethodSection, given, words=True))
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from None
    check_method(method, settings.options)
    return asdict(settings)


class DataTask(Task):
    """A task on a data set with `name` and `splits`.

    Args:
        data (`Any`): The data set.
        config (`ModelConfig`): Model, method and recipe.
    """

    #: Code that loads the saved model and predicts.
    usage_text: str = ""

    def __init__(self, data: Any, config: Any) -> None:
        self.data = data
        self.config = config

    def describe(self) -> dict[str, Any]:
        """Recipe and data set; without what the recipe has for other methods."""
        recipe = {name: value for name, value in asdict(self.config).items() if name != sections.KEY}
        return {**recipe, **describe_data(self.data)}

    def facts(self) -> dict[str, Any]:
        """Base model, data set and method."""
        config = self.config
        return {"base_model": config.model, "dataset": self.data.name, "method": config.method}

    def usage(self, repository: str) -> str:
        """Load and predict."""
        return self.usage_text.format(repository=repository)

    @abstractmethod
    def saved_processor(self) -> Any:
        """Give the image processor that prepares images as an evaluation of this task does."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write adapter or weights, head, label names and image processor to `folder / "model"`."""
        save_repository(model, self.saved_processor(), folder / "model")
