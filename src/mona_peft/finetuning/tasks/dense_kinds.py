"""The dense tasks by name: what each is made of, for everything that runs any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from mona_peft.finetuning.data.sources.dense import (
    ObjectDataConfig,
    SegmentationDataConfig,
    load_objects,
    load_segmentation,
)
from mona_peft.finetuning.training.task import Task

from .config import ObjectConfig
from .detection import DetectionConfig, DetectionTask
from .instance_segmentation import InstanceSegmentationConfig, InstanceSegmentationTask
from .semantic_segmentation import SemanticSegmentationConfig, SemanticSegmentationTask


@dataclass(frozen=True)
class DenseKind:
    """One dense task.

    Args:
        make (`Callable`): Makes it of data and settings (and image processor).
        settings (`type`): Its settings.
        data_settings (`type`): The settings of its data.
        load (`Callable`): Loads data by those settings, and a seed that draws what has to be drawn.
        scenes (`Callable`): Makes its data of the embedded scenes: numbers by split, `SceneSettings`.
        sides (`tuple[str, ...]`): Those of its settings that are a side of the images.
    """

    make: Callable[..., Task]
    settings: type[ObjectConfig | SemanticSegmentationConfig]
    data_settings: type[ObjectDataConfig | SegmentationDataConfig]
    load: Callable[..., ObjectData | SegmentationData]
    scenes: Callable[..., ObjectData | SegmentationData]
    sides: tuple[str, ...] = ("short_side", "long_side")


DENSE_KINDS = {
    "semantic_segmentation": DenseKind(
        SemanticSegmentationTask,
        SemanticSegmentationConfig,
        SegmentationDataConfig,
        load_segmentation,
        scene_segmentation,
        ("short_side", "long_side", "crop_side"),
    ),
    "detection": DenseKind(DetectionTask, DetectionConfig, ObjectDataConfig, load_objects, scene_objects),
    "instance_segmentation": DenseKind(
        InstanceSegmentationTask, InstanceSegmentationConfig, ObjectDataConfig, load_objects, scene_objects
    ),
}
