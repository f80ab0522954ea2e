"""Any image classification data set as a benchmark: what `train_classification.py` trains, over many variants."""

from __future__ import annotations

from pathlib import Path

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data, require_training
from mona_peft.finetuning.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.finetuning.training import Task, TrainingConfig

from .recipe import RecipeBenchmark


class ClassificationBenchmark(RecipeBenchmark):
    """A data set with the recipe of a classification run.

    Args:
        data (`DataConfig`): The data set; it needs a validation split beside the test split, or a fraction for one.
        config (`ClassificationConfig`): See `RecipeBenchmark`.
        training (`TrainingConfig`): See `RecipeBenchmark`.
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
