"""Any image classification data set as a benchmark: what `train_classification.py` trains, over many variants."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mona_peft.comparison.benchmark import Benchmark
from mona_peft.comparison.variants import Variant
from mona_peft.data.sources import DataConfig, load_data
from mona_peft.tasks.classification import ClassificationConfig, ClassificationTask
from mona_peft.training import Task, TrainingConfig
from mona_peft.training.config import FREE_ON_RESUME


class ClassificationBenchmark(Benchmark):
    """A data set with the recipe of a classification run.

    Args:
        data (`DataConfig`): The data set; it needs a validation split beside the test split, or a fraction for one.
        config (`ClassificationConfig`): Model and recipe; a variant gives the method and its settings, and its
            `backbone`, where it has one, is the model.
        training (`TrainingConfig`): Settings of the loop; a run gives its learning rate and seed.
    """

    def __init__(self, data: DataConfig, config: ClassificationConfig, training: TrainingConfig) -> None:
        self.data = data
        self.config = config
        self.base = training
        self.title = f"{data.dataset}, {Path(config.model_name_or_path).name}"
        if data.dataset == "voc2007" and data.voc_labels == "multi":
            self.metric, self.metric_name = "map", "mean average precision"

    def describe(self) -> dict[str, Any]:
        """Data, model and recipe without what variants and runs decide."""
        free = FREE_ON_RESUME | {"method", "method_options", "learning_rate", "seed"}
        settings = {**asdict(self.data), **asdict(self.config), **asdict(self.base)}
        return {"benchmark": "classification"} | {name: v for name, v in settings.items() if name not in free}

    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """The classification task with the variant's method.

        Raises:
            `ValueError`: if the data lacks a validation or a test split.
        """
        loaded = load_data(self.data, seed)
        missing = [split for split in ("validation", "test") if split not in loaded.splits]
        if missing:
            raise ValueError(
                f"{self.data.dataset} has no {' and no '.join(missing)} split. Rates are chosen on the first and "
                "results read from the second: give --validation_fraction, --validation_split or --test_split."
            )
        model = variant.backbone or self.config.model_name_or_path
        options = json.dumps(variant.options)
        config = replace(self.config, method=variant.method, method_options=options, model_name_or_path=model)
        return ClassificationTask(loaded, config)

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """The recipe at this rate and seed."""
        return replace(self.base, learning_rate=learning_rate, seed=seed)
