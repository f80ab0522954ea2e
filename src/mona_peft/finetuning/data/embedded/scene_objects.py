"""The embedded scenes as images with objects, their masks as COCO polygons or RLE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mona_peft.finetuning.data.dense.masks import Annotation, encode_mask
from mona_peft.finetuning.data.dense.objects import ObjectData, ObjectImage

from .digits import ADAPT_DIGITS
from .scenes import CLASS_NAMES, SPLITS, SceneImage, SceneSettings, compose_scene

#: The digits themselves are the category ids: as in COCO, they do not count from 0.
CATEGORIES = dict(zip(ADAPT_DIGITS, CLASS_NAMES, strict=True))


def scene_objects(sizes: dict[str, int], settings: SceneSettings | None = None) -> ObjectData:
    """Scenes with boxes and RLE masks.

    Args:
        sizes (`dict[str, int]`): Number of scenes of each split.
        settings (`SceneSettings`, *optional*): What scenes look like.
    """
    settings = settings or SceneSettings()
    splits = {split: [_to_image(split, i, settings) for i in range(size)] for split, size in sizes.items()}
    return ObjectData("scenes", splits, CATEGORIES)


def _to_image(split: str, index: int, settings: SceneSettings) -> ObjectImage:
    scene = compose_scene(split, index, settings)
    annotations = [
        mask_annotation(mask, ADAPT_DIGITS[label], box)
        for mask, label, box in zip(scene.masks, scene.labels, scene.boxes, strict=True)
    ]
    source = SceneImage(split, index, settings)
    # Ids are unique over the splits, and never 0, which some COCO tools take for "no image".
    id_ = 1_000_000 * SPLITS.index(split) + index + 1
    return ObjectImage(id_, settings.size, settings.size, source, tuple(annotations))


def mask_annotation(mask: np.ndarray, category_id: int, box: Sequence[float], iscrowd: int = 0) -> Annotation:
    """COCO annotation with a compressed RLE mask.

    Args:
        mask (`np.ndarray`): `(H, W)`, boolean.
        category_id (`int`): Of the object.
        box (`Sequence[float]`): x1, y1, x2, y2.
        iscrowd (`int`): 1 for a region of many objects.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    return {
        "category_id": int(category_id),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(mask.sum()),
        "iscrowd": iscrowd,
        "segmentation": encode_mask(mask),
    }
