"""Real pictures on a real backbone: DINOv2-S at 112 pixels, a grid of 8x8 patches and one class token.

Drawings and emoji come from package registries, the paper's data sets from the Hub. The budget of steps is the same
for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.sources.config import DataConfig
from mona_peft.finetuning.study.material.dinov2 import HUB_ID
from mona_peft.finetuning.study.variants import Variant
from mona_peft.finetuning.tasks.config import ClassificationConfig
from mona_peft.finetuning.training import TrainingConfig

from .recipes import ClassificationTestbed
from .testbed import Testbed

IMAGE_SIZE = 112
BACKBONE = f"dinov2-small-{IMAGE_SIZE}"
#: Rates from low to high, two a decade.
LADDER = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: Where the grid of a variant or method begins, and of those not named: near what ten drawings a class chose.
FIRST_RATES = {
    "full": 3e-5,
    "partial-1": 3e-4,
    "convpass": 3e-4,
    "lora16": 3e-3,
    "bottleneck": 3e-3,
    "norm": 3e-3,
    "bitfit": 3e-3,
    "vpt": 3e-3,
    "adaptformer": 1e-2,
    "fixed": 1e-2,
}
FIRST_RATE = 1e-3


@dataclass(frozen=True)
class RealData:
    """One data set of the study.

    Args:
        title (`str`): What tables call it.
        settings (`dict[str, Any]`): Of `DataConfig`; without a dataset it is a folder of the study's material.
        steps (`int`): Optimiser steps of a run on all training images.
    """

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 200


DATA = {
    "clipart": RealData("drawings of ten classes (Open Clip Art)"),
    "emoji": RealData("emoji of ten classes, trained on Google's drawings, tested on Twitter's"),
    "flowers102": RealData("Flowers102", {"dataset": "flowers102"}, steps=1000),
    "oxford_pets": RealData("Oxford-IIIT Pet", {"dataset": "oxford_pets", "validation_fraction": 0.2}, steps=1000),
    "voc2007": RealData("VOC2007", {"dataset": "voc2007", "validation_fraction": 0.2}, steps=1000),
}
#: Steps of a run on few images, and images a step.
FEW_STEPS = 80
BATCH_SIZE = 10


class OnDinov2(Testbed):
    """What the testbeds on DINOv2-S share: where the grid of a method begins, and how it grows."""

    ladder = LADDER

    def first_rates(self, variant: Variant) -> tuple[float, ...]:
        """The rate that a method's grid begins with, and those of the ladder below and above."""
        middle = LADDER.index(FIRST_RATES.get(variant.label, FIRST_RATES.get(variant.method, FIRST_RATE)))
        return LADDER[middle], LADDER[middle - 1], LADDER[middle + 1]


class RealTestbed(OnDinov2, ClassificationTestbed):
    """A data set of `DATA` on DINOv2-S.

    Args:
        name (`str`): A key of `DATA`.
        material (`Path`): Where `scripts/prepare_study.py` wrote.
        shots (`int`, *optional*): Training images a class, drawn by the seed of a run; all if left out.
        data_dir (`str`, *optional*): Folder with the official archives of a data set of the paper.

    Raises:
        ValueError: If the material is not there.
    """

    def __init__(self, name: str, material: Path, shots: int | None = None, data_dir: str | None = None) -> None:
        row = DATA[name]
        self.name = name
        settings = row.settings or {"dataset": str(require(material / name, name))}
        model = backbone_of(material, or_hub=bool(row.settings))
        data = DataConfig(**settings, shots=shots, data_dir=data_dir)
        steps = FEW_STEPS if shots else row.steps
        super().__init__(data, ClassificationConfig(model, crop_scale=[0.5, 1.0]), recipe(steps, BATCH_SIZE))
        few = f", {shots} images a class" if shots else ""
        self.title = f"{row.title}{few}, DINOv2-S at {IMAGE_SIZE} pixels"

    def describe(self) -> dict[str, object]:
        """Data, backbone and recipe; folders may move."""
        settings = super().describe() | {"benchmark": self.name, "dataset": self.name, "data_dir": None}
        data = self.load(0)
        sizes = {split: len(rows) for split, rows in data.splits.items()}
        backbone = Path(self.config.model).name
        return settings | {"model": backbone, "split_sizes": sizes, "classes": list(data.class_names)}


def backbone_of(material: Path, or_hub: bool = False) -> str:
    """The backbone's folder among the material, or its id on the Hub where it is not there and may come from it.

    Raises:
        ValueError: If it is not there.
    """
    folder = material / BACKBONE
    if or_hub and not folder.exists():
        return HUB_ID
    return str(require(folder, "dinov2-small").resolve())


def recipe(steps: int, batch_size: int) -> TrainingConfig:
    """The loop of every run: as many steps for all, a tenth of them to warm up, two evaluations."""
    return TrainingConfig(
        num_epochs=steps,
        max_steps=steps,
        eval_steps=steps // 2,
        warmup_steps=steps // 10,
        batch_size=batch_size,
        eval_batch_size=20,
        logging_steps=5,
        no_checkpoints=True,
        report_to=["none"],
        progress_bar=False,
    )


def require(folder: Path, material: str) -> Path:
    """Give a folder of the material.

    Raises:
        ValueError: If it is not there.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not there; run `python scripts/prepare_study.py --material {material} --output "
            f"{folder.parent}` first."
        )
    return folder
