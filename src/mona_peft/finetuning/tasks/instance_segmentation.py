"""Instance segmentation: Cascade Mask R-CNN and Mask2Former."""

from __future__ import annotations

from .config import InstanceSegmentationConfig
from .objects import ObjectTask

__all__ = ["InstanceSegmentationConfig", "InstanceSegmentationTask"]


class InstanceSegmentationTask(ObjectTask):
    """Fine-tune an instance segmenter.

    Args:
        data (`ObjectData`): Splits and categories; every object has a segmentation.
        config (`InstanceSegmentationConfig`): Model, method and recipe.
        processor (`Any`, *optional*): Image processor, where the backbone's folder has none.
    """

    name = "instance-segmentation"
    with_masks = True
