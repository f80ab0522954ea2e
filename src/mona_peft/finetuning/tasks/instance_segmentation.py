"""Instance segmentation: Cascade Mask R-CNN and Mask2Former."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.models.architectures import architectures_for
from mona_peft.finetuning.settings import option

from .objects import ObjectConfig, ObjectTask

KNOWN = architectures_for("instance_segmentation")


@dataclass
class InstanceSegmentationConfig(ObjectConfig):
    """Settings of an instance segmentation run."""

    architecture: str = option("cascade_mask_rcnn", f"One of {', '.join(KNOWN)}.", choices=KNOWN)

    def __post_init__(self) -> None:
        """Check that masks can be measured."""
        super().__post_init__()
        if self.protocol != "coco":
            raise ValueError(f"protocol is {self.protocol!r}, but masks are measured by COCO's protocol alone.")

    @property
    def metric(self) -> str:
        """The figure that runs are judged by."""
        return "mask_ap"


class InstanceSegmentationTask(ObjectTask):
    """Fine-tune an instance segmenter.

    Args:
        data (`ObjectData`): splits and categories; every object has a segmentation.
        config (`InstanceSegmentationConfig`): model, method and recipe.
        processor (`Any`, *optional*): image processor, where the backbone's folder has none.
    """

    name = "instance-segmentation"
    with_masks = True
