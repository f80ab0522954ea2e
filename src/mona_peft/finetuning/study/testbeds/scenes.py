"""Scenes of scanned digits: a small backbone pretrained to classify the digits 0 to 4 is adapted to find 5 to 9.

The test scenes, whose digits and photographs are in no other split, are read once for each run. The backbone never
saw a scene before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.tasks.dense_kinds import DENSE_KINDS
from mona_peft.finetuning.training import Task, TrainingConfig

from .pretraining import pretrain_backbone
from .recipes import METRIC_NAMES
from .scene_models import MODELS, SCENES, scene_model
from .testbed import Testbed


@dataclass(frozen=True)
class ScenesSize:
    """How much is done on the scenes.

    Args:
        pretraining_epochs (`int`): Over the scans of 0 to 4, see `pretrain_backbone`.
        held_out (`dict[str, int]`): Scenes of each split but training.
        seeds (`int`): Runs of each variant.
        most_scenes (`int`, *optional*): Training scenes, where that is fewer than the model's own.
        most_steps (`int`, *optional*): Optimiser steps of a run, where that is fewer than the model's own.
        most_rates (`int`, *optional*): How much of the model's grid of learning rates is tried.
    """

    pretraining_epochs: int
    held_out: dict[str, int]
    seeds: int
    most_scenes: int | None = None
    most_steps: int | None = None
    most_rates: int | None = None

    def scenes(self, architecture: str) -> dict[str, int]:
        """Scenes of each split."""
        scenes = MODELS[architecture].train_scenes
        return {"train": min(scenes, self.most_scenes or scenes), **self.held_out}

    def steps(self, architecture: str) -> int:
        """Optimiser steps of a run."""
        steps = MODELS[architecture].steps
        return min(steps, self.most_steps or steps)

    def learning_rates(self, architecture: str) -> tuple[float, ...]:
        """The grid of every method."""
        return MODELS[architecture].learning_rates[: self.most_rates]


SIZES = {
    "full": ScenesSize(pretraining_epochs=20, held_out={"validation": 60, "test": 200}, seeds=3),
    "tiny": ScenesSize(
        pretraining_epochs=1,
        held_out={"validation": 4, "test": 4},
        seeds=2,
        most_scenes=16,
        most_steps=3,
        most_rates=1,
    ),
}


class ScenesTestbed(Testbed):
    """A dense task on the scenes.

    Args:
        task_name (`str`): A key of `DENSE_KINDS`.
        architecture (`str`): One of the task's.
        size (`ScenesSize`): Scenes and steps.

    Raises:
        ValueError: If the task has no such architecture.
    """

    def __init__(self, task_name: str, architecture: str, size: ScenesSize) -> None:
        self.task_name = task_name
        self.architecture = architecture
        self.model = scene_model(task_name, architecture)
        self.size = size
        self.title = f"scenes of scanned digits 5 to 9, {task_name.replace('_', ' ')} with {self.model.title}"
        self.metric = DENSE_KINDS[task_name].settings().metric
        self.metric_name = METRIC_NAMES[self.metric]
        self.seeds = size.seeds
        self.learning_rates = size.learning_rates(architecture)

    def describe(self) -> dict[str, object]:
        """Everything of the size that concerns the task, but what a plan decides."""
        return {
            "benchmark": f"scenes-{self.task_name}",
            "architecture": self.architecture,
            "settings": asdict(SCENES),
            "pretraining_epochs": self.size.pretraining_epochs,
            "scenes": self.size.scenes(self.architecture),
            "steps": self.size.steps(self.architecture),
        }

    def sizes(self) -> str:
        """How many scenes there are."""
        scenes = self.size.scenes(self.architecture)
        return f"{scenes['train']} training scenes, {scenes['test']} test scenes"

    def prepare(self, variants: list[Variant], folder: Path) -> None:
        """Pretrain the backbone."""
        self._backbone(folder)

    def _backbone(self, folder: Path) -> Path:
        return pretrain_backbone(self.model.backbone, folder / "pretrained", self.size.pretraining_epochs)

    def task(self, variant: Variant, seed: int, folder: Path) -> Task:
        """The task with the variant's method. A mirrored digit is another sign, so nothing is mirrored."""
        kind = DENSE_KINDS[self.task_name]
        settings = kind.settings(
            model=str(self._backbone(folder).resolve()),
            architecture=self.architecture,
            architecture_options=self.model.options,
            method=variant.method,
            method_options=variant.options,
            short_side=SCENES.size,
            long_side=SCENES.size,
            horizontal_flip=0.0,
            **self.model.settings,
        )
        return kind.make(kind.scenes(self.size.scenes(self.architecture), SCENES), settings)

    def training(self, learning_rate: float, seed: int) -> TrainingConfig:
        """Settings of one run's loop, without a folder."""
        steps = self.size.steps(self.architecture)
        return TrainingConfig(
            num_epochs=steps,
            max_steps=steps,
            eval_steps=max(1, steps // 3),
            batch_size=8,
            eval_batch_size=20,
            learning_rate=learning_rate,
            warmup_steps=steps // 10,
            weight_decay=0.01,
            seed=seed,
            no_checkpoints=True,
            report_to=["none"],
            progress_bar=False,
            logging_steps=5,
        )
