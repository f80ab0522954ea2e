"""Object detection: RetinaNet on hierarchical backbones, DETR and Conditional DETR on any."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.settings import option

from .objects import ObjectConfig, ObjectTask


@dataclass
class DetectionConfig(ObjectConfig):
    """Settings of an object detection run."""

    architecture: str = option("retinanet", "One of retinanet, detr, conditional_detr.")


class DetectionTask(ObjectTask):
    """Fine-tune a detector.

    Args:
        data (`ObjectData`): splits and categories.
        config (`DetectionConfig`): model, method and recipe.
        processor (`Any`, *optional*): image processor, where the backbone's folder has none.
    """

    name = "object-detection"
    architectures = ("retinanet", "detr", "conditional_detr")
    # The paper's RetinaNet leaves out the first stage, and makes P6 and P7 itself; DETR takes the last map.
    stages = {"retinanet": (2, 3, 4), "detr": (-1,), "conditional_detr": (-1,)}
