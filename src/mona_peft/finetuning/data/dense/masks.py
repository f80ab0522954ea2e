"""COCO's segmentations: polygons, and run lengths (RLE) compressed or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as rle

from mona_peft.finetuning.data.orientation import turn_pixels

Annotation = dict[str, Any]


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed RLE of a mask `(H, W)`, its counts as text, as JSON wants it."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(annotation: Annotation, height: int, width: int) -> np.ndarray:
    """Mask `(H, W)`, uint8, of a COCO segmentation: polygons, or RLE compressed or not; no polygon is an empty mask.

    Raises:
        `ValueError`: if there is no segmentation or it is none of these.
    """
    return rle.decode(encode_segmentation(annotation, height, width))


def encode_segmentation(annotation: Annotation, height: int, width: int) -> dict[str, Any]:
    """Compressed RLE of a COCO segmentation, as COCO's own tools make it.

    Raises:
        `ValueError`: if there is no segmentation or it is none of COCO's kinds.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        polygons = [
            polygon for polygon in segmentation if len(polygon) >= 6
        ]  # fewer than three points enclose nothing
        if not polygons:
            return rle.encode(np.zeros((height, width), np.uint8, order="F"))
        return rle.merge(rle.frPyObjects(polygons, height, width))
    if isinstance(segmentation, dict) and "counts" in segmentation:
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"An RLE mask of size {segmentation['size']} is on an image of {[height, width]}.")
        if isinstance(segmentation["counts"], list):
            return rle.frPyObjects(segmentation, height, width)
        return segmentation
    raise ValueError(
        f"Annotation {annotation.get('id')} has no segmentation (polygons or RLE) but {segmentation!r}; "
        "instance segmentation needs one, detection does not."
    )


def turn_segmentation(annotation: Annotation, orientation: int, height: int, width: int) -> dict[str, Any]:
    """Compressed RLE of the segmentation on a stored image, on the image that EXIF data turn upright.

    Args:
        annotation (`dict`): With its segmentation.
        orientation (`int`): Of the EXIF data.
        height (`int`): Of the stored image, pixels.
        width (`int`): Of the stored image, pixels.
    """
    return encode_mask(turn_pixels(decode_mask(annotation, height, width), orientation))
