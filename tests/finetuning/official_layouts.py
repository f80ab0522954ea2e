"""Tiny data sets in the official layouts of the recipes, and flags that make a recipe's run tiny."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.data.sources.voc import VOC_CLASSES
from tests.finetuning.data import layouts
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, SCENES
from tests.support.datasets import write_ade, write_coco, write_voc


def scenes(**sizes: int) -> ObjectData:
    """Scenes in splits of these names and sizes, whose objects go by the names of VOC's classes."""
    data = scene_objects({"train": sum(sizes.values())}, SCENES)
    images = iter(data.splits["train"])
    splits = {name: [next(images) for _ in range(size)] for name, size in sizes.items()}
    return replace(data, splits=splits, categories=dict(zip(data.categories, VOC_CLASSES, strict=False)))


def voc0712(root: Path) -> None:
    """VOC2007 and VOC2012 in one devkit."""
    write_voc(scenes(trainval=4, test=2), root, "2007")
    write_voc(scenes(trainval=2), root, "2012")


def coco(root: Path) -> None:
    """COCO of 2017."""
    write_coco(scenes(train2017=4, val2017=2), root)


def ade20k(root: Path) -> None:
    """ADE20K of the scene parsing challenge."""
    write_ade(scene_segmentation({"train": 4, "validation": 2}, SCENES), root)


#: By the name that recipes give: writes the layout, and the word of the task's command.
LAYOUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flowers102": (layouts.flowers102, "classification"),
    "oxford_pets": (layouts.oxford_pets, "classification"),
    "voc2007": (layouts.voc2007, "classification"),
    "ade20k": (ade20k, "segmentation"),
    "voc0712": (voc0712, "detection"),
    "coco": (coco, "instances"),
}
LOOP = "--num_workers 0 --mixed_precision no --cpu --report_to none --no_progress_bar --no_checkpoints"
SIZES = {
    "segmentation": "--short_side 64 --long_side 64 --crop_side 64",
    "detection": "--short_side 64 --long_side 64",
    "instances": "--short_side 64 --long_side 64 --train_short_sides 64 --crop_short_sides 64 --crop 32 48",
    "classification": "",
}


def tiny_flags(dataset: str, folder: Path, model: Path, architecture: str | None) -> list[str]:
    """Flags that take a recipe's data, model and sizes to a run of one step on the CPU."""
    flags = ["--data_dir", str(folder), "--model", str(model), "--max_steps", "1", "--batch_size", "2"]
    flags += [*LOOP.split(), *SIZES[LAYOUTS[dataset][1]].split()]
    if architecture:
        flags += ["--architecture_options", json.dumps(ARCHITECTURE_OPTIONS[architecture])]
    return flags
