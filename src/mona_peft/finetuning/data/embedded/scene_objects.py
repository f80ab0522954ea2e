"""The embedded scenes as images with objects, their masks as COCO polygons or RLE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from mona_peft.finetuning.data.dense.objects import Annotation, ObjectData, ObjectImage

from .digits import ADAPT_DIGITS
from .scenes import CLASS_NAMES, SPLITS, SceneSettings, compose_scene

#: The digits themselves are the category ids: as in COCO, they do not count from 0.
CATEGORIES = dict(zip(ADAPT_DIGITS, CLASS_NAMES, strict=True))


def scene_objects(sizes: dict[str, int], settings: SceneSettings | None = None) -> ObjectData:
    """Scenes with boxes and RLE masks.

    Args:
        sizes (`dict[str, int]`): number of scenes of each split.
        settings (`SceneSettings`, *optional*): what scenes look like.
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
    read = partial(_read, split, index, settings)
    # Ids are unique over the splits, and never 0, which some COCO tools take for "no image".
    id_ = 1_000_000 * SPLITS.index(split) + index + 1
    return ObjectImage(id_, settings.size, settings.size, read, tuple(annotations))


def _read(split: str, index: int, settings: SceneSettings) -> Image.Image:
    return Image.fromarray(compose_scene(split, index, settings).image)


def mask_annotation(mask: np.ndarray, category_id: int, box: Sequence[float], iscrowd: int = 0) -> Annotation:
    """COCO annotation with a compressed RLE mask.

    Args:
        mask (`np.ndarray`): `(H, W)`, boolean.
        category_id (`int`): of the object.
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


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed RLE of a mask `(H, W)`, its counts as text, as JSON wants it."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask `(H, W)` as COCO polygons: x, y, x, y, ... along the outer edges of its pixels.

    COCO's rasteriser turns them back into the mask with its holes filled, as polygons in COCO cannot have any.
    """
    from skimage.measure import find_contours

    padded = np.pad(mask.astype(float), 1)
    contours = find_contours(padded, 0.5)
    outer = [contour for contour in contours if _is_outer(contour)]
    # A contour runs through pixel centres half a pixel outside; COCO counts from the corner of the first pixel.
    return [(contour[:-1, ::-1] - 0.5).ravel().tolist() for contour in outer if len(contour) > 3]


def _is_outer(contour: np.ndarray) -> bool:
    """Whether a closed contour has high values inside: scikit-image turns the other way round holes."""
    rows, columns = contour[:-1, 0], contour[:-1, 1]
    doubled_area = np.sum(columns * np.roll(rows, -1) - np.roll(columns, -1) * rows)
    return bool(doubled_area > 0)
