"""Dense tasks as benchmarks: any data set that the training scripts know, and the embedded scenes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mona_peft.finetuning.tasks.dense_kinds import DENSE_KINDS
from mona_peft.finetuning.training import Task, TrainingConfig

from .dense_demo import DenseDemoSize, demo_training
from .dense_demo_models import SCENES, demo_model, scene_task
from .dense_demo_pretraining import pretrain_backbone
from .recipe import RecipeBenchmark
from .testbed import Benchmark
from .variants import Variant

#: What tables call the figures that runs are judged by.
METRIC_NAMES = {"mean_iou": "mean IoU", "box_ap": "box AP", "ap50": "AP at IoU 0.5", "mask_ap": "mask AP"}


class DenseBenchmark(RecipeBenchmark):
    """A dense data set with the recipe of a run.

    Args:
        task_name (`str`): A key of `DENSE_KINDS`.
        data (`Any`): See `RecipeBenchmark`.
        config (`Any`): See `RecipeBenchmark`.
        training (`TrainingConfig`): See `RecipeBenchmark`.
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


class ScenesBenchmark(Benchmark):
    """The dense demo's scenes: a small backbone pretrained to classify the digits 0 to 4 is adapted to find 5 to 9.

    Args:
        task_name (`str`): A key of `DENSE_KINDS`.
        architecture (`str`): One of the task's.
        size (`DenseDemoSize`): Scenes and steps.

    Raises:
        ValueError: If the task has no such architecture.
    """

    def __init__(self, task_name: str, architecture: str, size: DenseDemoSize) -> None:
        self.architecture = architecture
        self.model = demo_model(task_name, architecture)
        self.size = size
        self.title = f"scenes of scanned digits 5 to 9, {self.model.task.replace('_', ' ')} with {self.model.title}"
        self.metric = DENSE_KINDS[task_name].settings().metric
        self.metric_name = METRIC_NAMES[self.metric]
        self.seeds = size.seeds
        self.learning_rates = size.learning_rates(architecture)

    def describe(self) -> dict[str, Any]:
        """Everything of the size that concerns the task, but what a plan decides."""
        return {
            "benchmark": f"scenes-{self.model.task}",
            "architecture": self.architecture,
            "settings": asdict(SCENES),
            "pretraining_epochs": self.size.pretraining_epochs,
            "scenes": self.size.scenes(self.architecture),
            "steps": self.size.steps(self.architecture),
        }

    def prepare(self, variants: list[Variant], folder: Path) -> None:
        """Pretrain the backbone."""
        self._backbone(folder)

    def _backbone(self, folder: Path) -> Path:
        return pretrain_backbone(self.model.backbone, folder / "pretrained", self.size.pretraining_epochs)

    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """The demo's task with the variant's method."""
        scenes = self.size.scenes(self.architecture)
        return scene_task(self.architecture, variant.method, self._backbone(folder), scenes, variant.options)

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """The demo's recipe."""
        return demo_training(self.architecture, self.size, learning_rate, seed)
