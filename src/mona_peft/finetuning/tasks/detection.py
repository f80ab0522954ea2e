"""Object detection: RetinaNet on hierarchical backbones or one map of a ViT, DETR and Conditional DETR on any."""

from __future__ import annotations

from .config import DetectionConfig
from .objects import ObjectTask

__all__ = ["DetectionConfig", "DetectionTask"]


class DetectionTask(ObjectTask):
    """Fine-tune a detector.

    Args:
        data (`ObjectData`): Splits and categories.
        config (`DetectionConfig`): Model, method and recipe.
        processor (`BaseImageProcessor`, *optional*): Image processor, where the backbone's folder has none.
    """

    name = "object-detection"
