"""Object detection: RetinaNet on hierarchical backbones, DETR and Conditional DETR on any."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.models.architectures import architectures_for
from mona_peft.finetuning.settings import option

from .objects import ObjectConfig, ObjectTask

KNOWN = architectures_for("detection")


@dataclass
class DetectionConfig(ObjectConfig):
    """Settings of an object detection run."""

    architecture: str = option("retinanet", f"One of {', '.join(KNOWN)}.", choices=KNOWN)


class DetectionTask(ObjectTask):
    """Fine-tune a detector.

    Args:
        data (`ObjectData`): splits and categories.
        config (`DetectionConfig`): model, method and recipe.
        processor (`Any`, *optional*): image processor, where the backbone's folder has none.
    """

    name = "object-detection"
