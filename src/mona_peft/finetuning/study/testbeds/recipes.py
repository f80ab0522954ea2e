"""Any data set and recipe that a training script takes, over many variants."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data, require_training
from mona_peft.finetuning.data.sources.config import DenseDataConfig, SourceConfig
from mona_peft.finetuning.study.splits import CHOSEN_ON, StudySplits, study_splits
from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.tasks.base import ConfigT, DataT
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.tasks.config import ObjectConfig, SemanticSegmentationConfig
from mona_peft.finetuning.tasks.dense_kinds import DENSE_KINDS
from mona_peft.finetuning.training import Task, TrainingConfig
from mona_peft.finetuning.training.config import FREE_ON_RESUME

from .testbed import Testbed

#: What tables call metrics.
METRIC_NAMES = {
    "top5_accuracy": "top-5 accuracy",
    "mean_iou": "mean IoU",
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "ap50": "AP at IoU 0.5",
    "ap50_11point": "11-point AP at IoU 0.5",
}


class RecipeTestbed(Testbed, Generic[DataT, ConfigT]):
    """A data set with the recipe of a run.

    Args:
        task_name (`str`): Name of the task.
        data (`SourceConfig`): Settings of the data set.
        config (`ModelConfig`): Settings of the task; a variant gives the method and its settings, and its `backbone`
            and `drop_path`, where it has them, are those of the model.
        training (`TrainingConfig`): Settings of the loop; a run gives its learning rate and seed.
        select_on (`str`): What rates and weights are chosen on; see `study_splits`.
        fraction (`float`): Share of the training set to hold out where the data has one split to evaluate on.

    Raises:
        ValueError: If rates and weights would be chosen by the loss.
    """

    def __init__(
        self,
        task_name: str,
        data: SourceConfig,
        config: ConfigT,
        training: TrainingConfig,
        select_on: str = "validation",
        fraction: float = 0.1,
    ) -> None:
        if training.metric_for_best == "loss":
            raise ValueError(
                "metric_for_best is 'loss', which is better when smaller; a study chooses by a metric that is better "
                "when greater, such as accuracy. Leave it out or name another."
            )
        self.task_name = task_name
        self.data = data
        self.config = config
        self.base = training
        self.select_on = select_on
        self.fraction = fraction

    @abstractmethod
    def load(self, seed: int) -> DataT:
        """Load the data set, with its `splits`."""

    @abstractmethod
    def make(self, data: DataT, config: ConfigT) -> Task:
        """Give the task on loaded data."""

    def describe(self) -> dict[str, object]:
        """Data, model and recipe without what variants and runs decide."""
        free = FREE_ON_RESUME | {"method", "method_options", "by_method", "learning_rate", "seed"}
        settings = {**asdict(self.data), **asdict(self.config), **asdict(self.base)}
        kept = {name: value for name, value in settings.items() if name not in free}
        return {"benchmark": self.task_name, **kept, CHOSEN_ON: self.splits(self.base.seed)[1].chosen_on}

    def splits(self, seed: int) -> tuple[DataT, StudySplits]:
        """The data set, and the splits to train on, to choose on and to report.

        Raises:
            ValueError: If a split is missing that cannot be made of others, or one is named to choose and to report.
        """
        named = self.data.named_splits()
        if named["validation"] is not None and named["validation"] == named["test"]:
            raise ValueError(
                f"validation_split and test_split are both {named['test']!r}; leave out validation_split, and give "
                "--select_on test to choose on the split that is reported."
            )
        data = self.load(seed)
        try:
            return data, study_splits(data.splits, self.select_on, self.fraction)
        except ValueError as error:
            raise ValueError(f"{self.data.dataset}: {error}") from None

    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """The task with the variant's method.

        Raises:
            ValueError: If the data lacks a split.
        """
        data, made = self.splits(seed)
        changes: dict[str, Any] = {"method": variant.method, "method_options": variant.options}
        if variant.backbone:
            changes["model"] = variant.backbone
        if variant.drop_path is not None:
            changes["drop_path"] = variant.drop_path
        parts: dict[str, Any] = {"splits": made.splits}  # of the kind that the data has
        return self.make(replace(data, **parts), replace(self.config, **changes))

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """The recipe at this rate and seed."""
        return replace(self.base, learning_rate=learning_rate, seed=seed)


class ClassificationTestbed(RecipeTestbed[ClassificationData, ClassificationConfig]):
    """A data set with the recipe of a classification run.

    Args:
        data (`DataConfig`): The data set.
        config (`ClassificationConfig`): See `RecipeTestbed`.
        training (`TrainingConfig`): See `RecipeTestbed`.
        select_on (`str`): See `RecipeTestbed`.
        fraction (`float`): See `RecipeTestbed`.
    """

    data: DataConfig

    def __init__(
        self,
        data: DataConfig,
        config: ClassificationConfig,
        training: TrainingConfig,
        select_on: str = "validation",
        fraction: float = 0.1,
    ) -> None:
        super().__init__("classification", data, config, training, select_on, fraction)
        self.title = f"{data.dataset}, {Path(config.model).name}"
        if self.load(training.seed).multilabel:
            self.metric, self.metric_name = "map", "mean average precision"

    def load(self, seed: int) -> ClassificationData:
        """Load the data set; the seed draws what has to be drawn of it."""
        return require_training(load_data(self.data, seed))

    def make(self, data: ClassificationData, config: ClassificationConfig) -> Task:
        """Give the classification task."""
        return ClassificationTask(data, config)


DenseData = ObjectData | SegmentationData
DenseSettings = ObjectConfig | SemanticSegmentationConfig


class DenseTestbed(RecipeTestbed[DenseData, DenseSettings]):
    """A dense data set with the recipe of a run.

    Args:
        task_name (`str`): A key of `DENSE_KINDS`.
        data (`DenseDataConfig`): See `RecipeTestbed`.
        config (`ObjectConfig` or `SemanticSegmentationConfig`): See `RecipeTestbed`.
        training (`TrainingConfig`): See `RecipeTestbed`.
        select_on (`str`): See `RecipeTestbed`.
        fraction (`float`): See `RecipeTestbed`.
    """

    def __init__(
        self,
        task_name: str,
        data: DenseDataConfig,
        config: DenseSettings,
        training: TrainingConfig,
        select_on: str = "validation",
        fraction: float = 0.1,
    ) -> None:
        super().__init__(task_name, data, config, training, select_on, fraction)
        self.title = f"{data.dataset}, {task_name.replace('_', ' ')}, {Path(config.model).name}"
        self.metric, self.metric_name = config.metric, METRIC_NAMES[config.metric]
        self.loaded: DenseData | None = None

    def load(self, seed: int) -> DenseData:
        """Load the data set, once: nothing of it is drawn."""
        if self.loaded is None:
            self.loaded = DENSE_KINDS[self.task_name].load(self.data)
        return self.loaded

    def make(self, data: DenseData, config: DenseSettings) -> Task:
        """Give the dense task."""
        return DENSE_KINDS[self.task_name].make(data, config)
