"""Any data set and recipe that a training script takes, over many variants."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data, require_training
from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.tasks.dense_kinds import DENSE_KINDS
from mona_peft.finetuning.training import Task, TrainingConfig
from mona_peft.finetuning.training.config import FREE_ON_RESUME

from .testbed import Testbed

#: What tables call the metrics that dense runs are judged by.
METRIC_NAMES = {
    "mean_iou": "mean IoU",
    "box_ap": "box AP",
    "ap50": "AP at IoU 0.5",
    "ap50_11point": "11-point AP at IoU 0.5",
    "mask_ap": "mask AP",
}


class RecipeTestbed(Testbed):
    """A data set with the recipe of a run.

    Args:
        task_name (`str`): Name of the task.
        data (`Any`): Settings of the data set; it needs both a validation and a test split.
        config (`Any`): Settings of the task; a variant gives the method and its settings, and its `backbone`, where it
            has one, is the model.
        training (`TrainingConfig`): Settings of the loop; a run gives its learning rate and seed.
    """

    #: What to do about a split that the data lacks.
    remedy: str = ""

    def __init__(self, task_name: str, data: Any, config: Any, training: TrainingConfig) -> None:
        self.task_name = task_name
        self.data = data
        self.config = config
        self.base = training

    @abstractmethod
    def load(self, seed: int) -> Any:
        """Load the data set, with its `splits`."""

    @abstractmethod
    def make(self, data: Any, config: Any) -> Task:
        """Give the task on loaded data."""

    def describe(self) -> dict[str, Any]:
        """Data, model and recipe without what variants and runs decide."""
        free = FREE_ON_RESUME | {"method", "method_options", "learning_rate", "seed"}
        settings = {**asdict(self.data), **asdict(self.config), **asdict(self.base)}
        return {"benchmark": self.task_name} | {name: value for name, value in settings.items() if name not in free}

    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """The task with the variant's method.

        Raises:
            `ValueError`: if the data lacks a validation or a test split.
        """
        data = self.load(seed)
        missing = [split for split in ("validation", "test") if split not in data.splits]
        if missing:
            raise ValueError(
                f"{self.data.dataset} has no {' and no '.join(missing)} split. Rates are chosen on the first and "
                f"results read from the second: {self.remedy}."
            )
        model = variant.backbone or self.config.model_name_or_path
        options = variant.options
        config = replace(self.config, method=variant.method, method_options=options, model_name_or_path=model)
        return self.make(data, config)

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """The recipe at this rate and seed."""
        return replace(self.base, learning_rate=learning_rate, seed=seed)


class ClassificationTestbed(RecipeTestbed):
    """A data set with the recipe of a classification run.

    Args:
        data (`DataConfig`): The data set; it needs a validation split and a test split, or a fraction for the first.
        config (`ClassificationConfig`): See `RecipeTestbed`.
        training (`TrainingConfig`): See `RecipeTestbed`.
    """

    remedy = "give --validation_fraction, --validation_split or --test_split"

    def __init__(self, data: DataConfig, config: ClassificationConfig, training: TrainingConfig) -> None:
        super().__init__("classification", data, config, training)
        self.title = f"{data.dataset}, {Path(config.model_name_or_path).name}"
        if self.load(training.seed).multilabel:
            self.metric, self.metric_name = "map", "mean average precision"

    def load(self, seed: int) -> ClassificationData:
        """Load the data set; the seed draws what has to be drawn of it."""
        return require_training(load_data(self.data, seed))

    def make(self, data: ClassificationData, config: ClassificationConfig) -> Task:
        """Give the classification task."""
        return ClassificationTask(data, config)


class DenseTestbed(RecipeTestbed):
    """A dense data set with the recipe of a run.

    Args:
        task_name (`str`): A key of `DENSE_KINDS`.
        data (`Any`): See `RecipeTestbed`.
        config (`Any`): See `RecipeTestbed`.
        training (`TrainingConfig`): See `RecipeTestbed`.
    """

    remedy = "lay the data set out with both"

    def __init__(self, task_name: str, data: Any, config: Any, training: TrainingConfig) -> None:
        super().__init__(task_name, data, config, training)
        self.title = f"{data.dataset}, {task_name.replace('_', ' ')}, {Path(config.model_name_or_path).name}"
        self.metric, self.metric_name = config.metric, METRIC_NAMES[config.metric]

    def load(self, seed: int) -> Any:
        """Load the data set; nothing of it is drawn."""
        return DENSE_KINDS[self.task_name].load(self.data)

    def make(self, data: Any, config: Any) -> Task:
        """Give the dense task."""
        return DENSE_KINDS[self.task_name].make(data, config)
