"""Which annotated objects of an image train, and as what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .masks import Annotation, decode_mask
from .objects import ObjectImage


@dataclass(frozen=True)
class Targets:
    """The objects of one image that a detector is trained on.

    Args:
        boxes (`np.ndarray`): `(N, 4)`, x1, y1, x2, y2 in pixels, inside the image.
        labels (`np.ndarray`): `(N,)`, from 0.
        masks (`np.ndarray`, *optional*): `(N, H, W)`, uint8.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


def training_targets(image: ObjectImage, category_ids: Sequence[int], with_masks: bool) -> Targets:
    """Objects of `image` that train: no crowds, no `difficult` ones, none without a pixel inside the image.

    Boxes are clipped to the image. With masks, objects whose mask is empty are left out too.

    Args:
        image (`ObjectImage`): The image.
        category_ids (`Sequence[int]`): By label.
        with_masks (`bool`): Whether masks are wanted.

    Raises:
        ValueError: If an annotation has an unknown category, or no mask where one is wanted.
    """
    label_of = {category: label for label, category in enumerate(category_ids)}
    boxes, labels, masks = [], [], []
    for annotation in image.annotations:
        box = training_box(annotation, image)
        if box is None:
            continue
        if with_masks:
            mask = decode_mask(annotation, image.height, image.width)
            if not mask.any():
                continue
            masks.append(mask)
        if annotation["category_id"] not in label_of:
            raise ValueError(
                f"Image {image.id} has an object of category {annotation['category_id']}, which is unknown."
            )
        boxes.append(box)
        labels.append(label_of[annotation["category_id"]])
    stacked = np.stack(masks) if masks else np.zeros((0, image.height, image.width), np.uint8)
    return Targets(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), stacked if with_masks else None
    )


def training_box(annotation: Annotation, image: ObjectImage) -> tuple[float, float, float, float] | None:
    """Corners of an object that trains, clipped to the image; `None` for one that does not."""
    if annotation.get("iscrowd") or annotation.get("difficult"):
        return None
    return clip_box(annotation["bbox"], image.height, image.width)


def trained_classes(image: ObjectImage) -> set[int]:
    """Categories of the objects of an image that train."""
    return {one["category_id"] for one in image.annotations if training_box(one, image)}


def without_empty(images: Sequence[ObjectImage]) -> list[ObjectImage]:
    """The images with an object that trains: 117,266 of COCO's 118,287.

    Raises:
        ValueError: If there is none.
    """
    kept = [image for image in images if any(training_box(one, image) for one in image.annotations)]
    if not kept:
        raise ValueError(f"None of {len(images)} training images has an object to train on; annotate some.")
    return kept


def clip_box(bbox: Sequence[float], height: int, width: int) -> tuple[float, float, float, float] | None:
    """A COCO box as corners clipped to the image; `None` if less than a pixel is left of a side."""
    x, y, box_width, box_height = bbox
    x1, y1 = min(max(x, 0.0), width), min(max(y, 0.0), height)
    x2, y2 = min(max(x + box_width, 0.0), width), min(max(y + box_height, 0.0), height)
    return (x1, y1, x2, y2) if x2 - x1 >= 1 and y2 - y1 >= 1 else None
