"""Dense tasks as benchmarks: any data set that the training scripts know, and the embedded scenes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mona_peft.comparison.benchmark import Benchmark
from mona_peft.comparison.recipe import RecipeBenchmark
from mona_peft.comparison.variants import Variant
from mona_peft.data.dense_sources import load_objects, load_segmentation
from mona_peft.tasks.dense_demo import SCENES, TASKS, DenseDemoSize, demo_training
from mona_peft.tasks.dense_demo_pretraining import pretrain_small_swin
from mona_peft.tasks.detection import DetectionTask
from mona_peft.tasks.instance_segmentation import InstanceSegmentationTask
from mona_peft.tasks.semantic_segmentation import SemanticSegmentationTask
from mona_peft.training import Task, TrainingConfig

# By task: what makes it of data and settings, what loads its data.
DENSE_TASKS: dict[str, tuple[Callable[[Any, Any], Task], Callable[[Any], Any]]] = {
    "semantic_segmentation": (SemanticSegmentationTask, load_segmentation),
    "detection": (DetectionTask, load_objects),
    "instance_segmentation": (InstanceSegmentationTask, load_objects),
}

METRICS = {
    "semantic_segmentation": ("mean_iou", "mean IoU"),
    "detection": ("ap50", "AP at IoU 0.5"),
    "instance_segmentation": ("mask_ap", "mask AP"),
}


class DenseBenchmark(RecipeBenchmark):
    """A dense data set with the recipe of a run.

    Args:
        task_name (`str`): A key of `DENSE_TASKS`.
        data (`Any`): See `RecipeBenchmark`.
        config (`Any`): See `RecipeBenchmark`.
        training (`TrainingConfig`): See `RecipeBenchmark`.
    """

    remedy = "lay the data set out with both"

    def __init__(self, task_name: str, data: Any, config: Any, training: TrainingConfig) -> None:
        super().__init__(task_name, data, config, training)
        self.title = f"{data.dataset}, {task_name.replace('_', ' ')}, {Path(config.model_name_or_path).name}"
        self.metric, self.metric_name = METRICS[task_name]
        if task_name == "detection" and config.protocol != "voc":
            self.metric, self.metric_name = "box_ap", "box AP"

    def load(self, seed: int) -> Any:
        """Load the data set; nothing of it is drawn."""
        return DENSE_TASKS[self.task_name][1](self.data)

    def make(self, data: Any, config: Any) -> Task:
        """Give the dense task."""
        return DENSE_TASKS[self.task_name][0](data, config)


class ScenesBenchmark(Benchmark):
    """The dense demo's scenes: a small Swin pretrained to classify the digits 0 to 4 is adapted to find 5 to 9.

    Args:
        task_name (`str`): A key of `DENSE_TASKS`.
        size (`DenseDemoSize`): Scenes and steps.
    """

    def __init__(self, task_name: str, size: DenseDemoSize) -> None:
        self.task_name = task_name
        self.size = size
        self.title = f"scenes of scanned digits 5 to 9, {task_name.replace('_', ' ')}"
        self.metric, self.metric_name = METRICS[task_name]

    def describe(self) -> dict[str, Any]:
        """Everything of the size that concerns the task, but what a plan decides."""
        return {
            "benchmark": f"scenes-{self.task_name}",
            "settings": asdict(SCENES),
            "pretraining_epochs": self.size.pretraining_epochs,
            "scenes": self.size.scenes,
            "steps": self.size.steps[self.task_name],
        }

    def prepare(self, variants: list[Variant], folder: Path) -> None:
        """Pretrain the backbone, once."""
        pretrain_small_swin(folder / "pretrained", self.size.pretraining_epochs)

    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """The demo's task with the variant's method."""
        backbone = (folder / "pretrained" / "model").resolve()
        task: Any = TASKS[self.task_name](variant.method, backbone, self.size.scenes)
        make, _ = DENSE_TASKS[self.task_name]
        return make(task.data, replace(task.config, method_options=json.dumps(variant.options)))

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """The demo's recipe."""
        return demo_training(self.task_name, self.size, learning_rate, seed)
