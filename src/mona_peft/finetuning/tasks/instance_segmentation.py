"""Instance segmentation: Cascade Mask R-CNN and Mask2Former."""

from __future__ import annotations

from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning.data.dense.objects import ObjectData, require_masks

from .config import InstanceSegmentationConfig
from .objects import ObjectTask

__all__ = ["InstanceSegmentationConfig", "InstanceSegmentationTask"]


class InstanceSegmentationTask(ObjectTask):
    """Fine-tune an instance segmenter.

    Args:
        data (`ObjectData`): Splits and categories; every object has a segmentation.
        config (`InstanceSegmentationConfig`): Model, method and recipe.
        processor (`BaseImageProcessor`, *optional*): Image processor, where the backbone's folder has none.

    Raises:
        ValueError: If an object has no segmentation.
    """

    name = "instance-segmentation"
    with_masks = True

    def __init__(
        self, data: ObjectData, config: InstanceSegmentationConfig, processor: BaseImageProcessor | None = None
    ) -> None:
        require_masks(data)
        super().__init__(data, config, processor)
