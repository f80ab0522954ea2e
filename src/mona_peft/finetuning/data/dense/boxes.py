"""Boxes in the formats that data sets write them in, as COCO's x, y, width and height in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np

#: How each format's four numbers become x, y, width and height: of arrays `(4, N)`, and of the image in that unit.
BOX_FORMATS: dict[str, tuple[bool, Callable[[np.ndarray], np.ndarray]]] = {
    "coco": (False, lambda box: box),
    "pascal_voc": (False, lambda box: np.stack([box[0], box[1], box[2] - box[0], box[3] - box[1]])),
    "yolo": (True, lambda box: np.stack([box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]])),
    "albumentations": (True, lambda box: np.stack([box[0], box[1], box[2] - box[0], box[3] - box[1]])),
}
MEANINGS = {
    "coco": "x, y, width, height in pixels",
    "pascal_voc": "x1, y1, x2, y2 in pixels",
    "yolo": "centre x, centre y, width, height as shares of the image",
    "albumentations": "x1, y1, x2, y2 as shares of the image",
}
#: By so much of an image's side, or so many pixels, a box may reach over the edge: what rounding does.
ROUNDING = {True: 0.005, False: 1.0}


def to_pixels(boxes: Sequence[Sequence[float]], kind: str, width: int, height: int) -> list[list[float]]:
    """Boxes in a format of `BOX_FORMATS` as x, y, width, height in pixels.

    Args:
        boxes (`Sequence`): `(N, 4)`.
        kind (`str`): The format.
        width (`int`): Of the image, pixels.
        height (`int`): Of the image, pixels.
    """
    relative, convert = BOX_FORMATS[kind]
    converted = convert(np.asarray(boxes, float).reshape(-1, 4).T).T
    return (converted * ([width, height, width, height] if relative else 1)).tolist()


def find_box_format(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]], name: str) -> str:
    """The one format of `BOX_FORMATS` in which every box lies in its image.

    Args:
        boxes (`Sequence`): `(N, 4)`, of all images.
        sizes (`Sequence[tuple[int, int]]`): Width and height of the image of each.
        name (`str`): Of the data, for the message.

    Raises:
        ValueError: If there is no such format, or several.
    """
    given = np.asarray(boxes, float).reshape(-1, 4).T
    sides = np.asarray(sizes, float).reshape(-1, 2).T
    shares = given.max(initial=0) <= 1 + ROUNDING[True]
    fitting = []
    for kind, (relative, convert) in BOX_FORMATS.items():
        x, y, width, height = convert(given)
        far, over = (np.ones_like(sides), ROUNDING[True]) if relative else (sides, ROUNDING[False])
        inside = (x >= -over) & (y >= -over) & (x + width <= far[0] + over) & (y + height <= far[1] + over)
        if relative == shares and bool((inside & (width >= 0) & (height >= 0)).all()):
            fitting.append(kind)
    if len(fitting) == 1 or (fitting and not len(boxes)):
        return fitting[0]
    found = f"fit {' and '.join(fitting)}" if fitting else f"lie inside their images in none of {', '.join(MEANINGS)}"
    meanings = "; ".join(f"{kind} is {MEANINGS[kind]}" for kind in fitting or MEANINGS)
    raise ValueError(f"The boxes of {name} {found}. Say which it is with --box_format ({meanings}).")


def box_fault(bbox: Sequence[float], width: int, height: int) -> str | None:
    """What is wrong with where a box is: `outside` its image, `empty`, or `over` its edge; `None` if nothing is.

    Args:
        bbox (`Sequence[float]`): x, y, width, height in pixels.
        width (`int`): Of the image, pixels.
        height (`int`): Of the image, pixels.
    """
    x, y, box_width, box_height = bbox
    if min(box_width, box_height) <= 0:
        return "empty"
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        return "outside"
    over = max(-x, -y, x + box_width - width, y + box_height - height)
    return "over" if over > ROUNDING[False] else None


def polygon_box(points: Sequence[float]) -> list[float]:
    """The box, x, y, width and height, around the points x, y, x, y, ... of a polygon."""
    xs, ys = points[::2], points[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def is_box(box: object) -> TypeGuard[Sequence[float]]:
    """Whether a value is four finite numbers."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return False
    return all(isinstance(number, int | float) for number in box) and are_finite(box)


def are_finite(numbers: Sequence[float]) -> bool:
    """Whether all are finite."""
    return all(map(math.isfinite, numbers))
