"""COCO's segmentations: polygons, and run lengths (RLE) compressed or not, checked before pycocotools sees them.

pycocotools trusts its input: run lengths that do not add up to the image make it loop for ever or read memory
that is not its own.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as rle

from mona_peft.finetuning.data.orientation import turn_pixels

Annotation = dict[str, Any]

#: Polygons may leave the image by this many times its longer side; each of their edges takes memory for its length.
FARTHEST = 10


class EncodedMask(TypedDict):
    """A mask in COCO's compressed RLE.

    Args:
        size (`list[int]`): Height and width, pixels.
        counts (`str`): The run lengths.
    """

    size: list[int]
    counts: str


def encode_mask(mask: np.ndarray) -> EncodedMask:
    """Compressed RLE of a mask `(H, W)`, its counts as text, as JSON wants it."""
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(annotation: Annotation, height: int, width: int) -> np.ndarray:
    """Mask `(H, W)`, uint8, of a COCO segmentation: polygons, or RLE compressed or not; no polygon is an empty mask.

    Raises:
        ValueError: If there is no segmentation or [`check_segmentation`] refuses it.
    """
    return rle.decode(encode_segmentation(annotation, height, width))


def encode_segmentation(annotation: Annotation, height: int, width: int) -> Mapping[str, object]:
    """Compressed RLE of a COCO segmentation, as COCO's own tools make it.

    Raises:
        ValueError: If there is no segmentation or [`check_segmentation`] refuses it.
    """
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        raise ValueError(
            f"Annotation {annotation.get('id')} has no segmentation (polygons or RLE); instance segmentation needs "
            "one, detection does not."
        )
    check_segmentation(annotation, height, width)
    if isinstance(segmentation, dict):
        compressed = not isinstance(segmentation["counts"], list)
        return segmentation if compressed else rle.frPyObjects(segmentation, height, width)
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than three points enclose nothing
    if not polygons:
        return rle.encode(np.zeros((height, width), np.uint8, order="F"))
    return rle.merge(rle.frPyObjects(polygons, height, width))


def segmentation_parts(segmentation: Any) -> Iterator[object]:
    """What tells a segmentation from another, for a hash: numbers of each polygon as bytes, an RLE as it is."""
    if segmentation is None or isinstance(segmentation, dict):
        yield segmentation
    else:
        for polygon in segmentation:
            yield array("d", polygon).tobytes()


def mask_area(encoded: Mapping[str, object]) -> float:
    """Pixels of a mask in compressed RLE."""
    return float(rle.area(encoded))


def turn_segmentation(annotation: Annotation, orientation: int, height: int, width: int) -> EncodedMask:
    """Compressed RLE of the segmentation on a stored image, on the image that EXIF data turn upright.

    Args:
        annotation (`dict`): With its segmentation.
        orientation (`int`): Of the EXIF data.
        height (`int`): Of the stored image, pixels.
        width (`int`): Of the stored image, pixels.
    """
    return encode_mask(turn_pixels(decode_mask(annotation, height, width), orientation))


def check_segmentation(annotation: Annotation, height: int, width: int) -> None:
    """Check a segmentation without drawing it.

    Args:
        annotation (`dict`): With its segmentation.
        height (`int`): Of the image, pixels.
        width (`int`): Of the image, pixels.

    Raises:
        ValueError: If it is no list of polygons and no RLE; if a polygon has an odd number of coordinates, or one that
            is no number, not finite or far outside the image; if run lengths are not those of the image.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict) and "counts" in segmentation:
        problem = _rle_problem(segmentation, height, width)
    elif isinstance(segmentation, list):
        farthest = FARTHEST * max(height, width)
        problem = next(filter(None, (_polygon_problem(polygon, farthest) for polygon in segmentation)), None)
    else:
        problem = f"is neither a list of polygons nor an RLE but {_shortened(segmentation)}"
    if problem:
        raise ValueError(f"The segmentation of annotation {annotation.get('id')} {problem}. Correct or remove it.")


def run_lengths(counts: str | bytes) -> list[int]:
    """The run lengths of a compressed RLE.

    Each number is written in groups of five bits from the lowest, a character a group, and from the third on, as
    its difference from the one before the last.

    Raises:
        ValueError: If a character cannot be, or the last number does not end.
    """
    text = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    lengths: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = character - 48
        if not 0 <= group < 64:
            raise ValueError(f"the character {chr(character)!r}")
        value |= (group & 31) << shift
        shift += 5
        if shift > 35:
            raise ValueError("a number that is too long")
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("a last number that does not end")
    return lengths


def _rle_problem(segmentation: Mapping[str, object], height: int, width: int) -> str | None:
    size, counts = segmentation.get("size"), segmentation["counts"]
    if not isinstance(size, Sequence) or list(size) != [height, width]:
        return f"is an RLE of size {_shortened(size)} on an image of [{height}, {width}]"
    try:
        lengths = run_lengths(counts) if isinstance(counts, str | bytes) else counts
    except ValueError as error:
        return f"has RLE counts that cannot be read ({error})"
    if not isinstance(lengths, list) or any(type(length) is not int or length < 0 for length in lengths):
        return f"has RLE counts that are no run lengths: {_shortened(lengths)}"
    if sum(lengths) != height * width:
        return f"has RLE counts for {sum(lengths)} pixels on an image of {height} x {width}"
    return None


def _polygon_problem(polygon: object, farthest: float) -> str | None:
    if not isinstance(polygon, list):
        return f"has a polygon that is no list of x, y, x, y, ... but {_shortened(polygon)}"
    if len(polygon) % 2:
        return f"has a polygon of {len(polygon)} coordinates, an odd number"
    try:
        good = math.isfinite(sum(polygon)) and (not polygon or -farthest <= min(polygon) <= max(polygon) <= farthest)
    except (TypeError, OverflowError):
        good = False
    return None if good else f"has a polygon with coordinates that cannot be: {_shortened(polygon)}"


def _shortened(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + "..."
