"""Boxes, masks and label maps of images that EXIF data turn.

Tools differ in the frame that annotations of such an image are in: torchvision's data sets read the pixels as they are
stored, while detectron2 and mmdetection turn the image first and take its annotations for upright. The size that comes
with the annotations tells which it is, where the image is turned by a quarter and is not square. Otherwise nothing
does, and whoever has the data set must say it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FRAMES = ("stored", "upright")
#: EXIF orientation: whether x and y are swapped, and then mirrored from left to right, and from top to bottom.
TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def remaining_turn(
    orientation: int, image_size: tuple[int, int], annotated_size: tuple[int, int], frame: str | None, name: str
) -> int:
    """The EXIF orientation by which annotations have to be turned to fit the upright image; 1 if they fit.

    Args:
        orientation (`int`): By which the image was turned.
        image_size (`tuple[int, int]`): Width and height of the upright image.
        annotated_size (`tuple[int, int]`): Width and height that the annotations are for.
        frame (`str`, *optional*): Frame of the annotations, one of `FRAMES`; told by the sizes if left out.
        name (`str`): Of the image, for the message.

    Raises:
        ValueError: If the sizes do not match, or do not tell the frame and nobody else does.
    """
    swapped = TURNS[orientation][0]
    sizes = {"stored": image_size[::-1] if swapped else image_size, "upright": image_size}
    fitting = [known for known in FRAMES if sizes[known] == annotated_size and frame in (None, known)]
    if not fitting:
        raise ValueError(
            f"The image {name} has {image_size[0]}x{image_size[1]} pixels, its annotations are for "
            f"{annotated_size[0]}x{annotated_size[1]}. Correct the annotations."
        )
    if orientation == 1:
        return 1
    if len(fitting) > 1:
        raise ValueError(
            f"The image {name} is turned by its EXIF orientation {orientation}, and its size does not tell whether "
            "its annotations are for the image as it is stored or upright. Say which with --exif_frame stored or "
            "--exif_frame upright, or save the image without that tag."
        )
    return orientation if fitting == ["stored"] else 1


def turn_box(bbox: Sequence[float], orientation: int, width: float, height: float) -> list[float]:
    """A box (x, y, width, height) on a stored image of this width and height, on the upright one."""
    swap, mirror_x, mirror_y = TURNS[orientation]
    x, y, box_width, box_height = bbox
    if swap:
        x, y, box_width, box_height, width, height = y, x, box_height, box_width, height, width
    if mirror_x:
        x = width - x - box_width
    if mirror_y:
        y = height - y - box_height
    return [x, y, box_width, box_height]


def turn_pixels(stored: np.ndarray, orientation: int) -> np.ndarray:
    """A mask or label map `(H, W)` of a stored image, for the upright one."""
    swap, mirror_x, mirror_y = TURNS[orientation]
    pixels = stored.T if swap else stored
    return pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
