"""Small data sets of the embedded scenes, written in the layouts of COCO, VOC and ADE20K."""

from __future__ import annotations

import numpy as np


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
