"""Pictures of dense predictions: boxes, masks and label maps on their image, and sheets of them next to the truth."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from mona_peft.finetuning.data.images import IGNORED

Colour = tuple[int, int, int]
LEAST_SIDE = 192


def class_colour(label: int) -> Colour:
    """A colour for a class: hues a golden section apart, so that any few of them differ."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def enlarge(image: Image.Image) -> tuple[Image.Image, int]:
    """A small image enlarged by a whole factor, so that lines and names on it can be seen; the factor."""
    factor = max(1, -(-LEAST_SIDE // min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST), factor


def draw_objects(image: Image.Image, objects: Mapping[str, object], class_names: Sequence[str]) -> Image.Image:
    """Draw boxes with names (and scores), and masks.

    Args:
        image (`PIL.Image.Image`): RGB.
        objects (`dict`): `boxes` `(N, 4)` in its pixels, `labels`, and where there are such `scores` and `masks`
            `(N, H, W)`, boolean.
        class_names (`Sequence[str]`): By label.
    """
    large, factor = enlarge(image)
    pixels = torch.from_numpy(np.array(large)).permute(2, 0, 1)
    labels = np.asarray(objects["labels"], int).tolist()
    if not labels:
        return large
    colours = [class_colour(label) for label in labels]
    if "masks" in objects:
        masks = torch.as_tensor(np.asarray(objects["masks"], bool)).repeat_interleave(factor, 1)
        pixels = draw_segmentation_masks(pixels, masks.repeat_interleave(factor, 2), 0.5, colours)
    boxes = torch.as_tensor(np.asarray(objects["boxes"], float)) * factor
    scores = objects.get("scores")
    names = [class_names[label] for label in labels]
    if scores is not None:
        names = [f"{name} {float(score):.2f}" for name, score in zip(names, np.asarray(scores, float), strict=True)]
    pixels = draw_bounding_boxes(pixels, boxes, names, colours, width=2)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def draw_label_map(image: Image.Image, labels: np.ndarray, opacity: float = 0.55) -> Image.Image:
    """Colour an image by its labels `(H, W)`; pixels without a label stay as they are."""
    large, factor = enlarge(image)
    full = labels.repeat(factor, 0).repeat(factor, 1)
    palette = np.array([class_colour(label) for label in range(IGNORED + 1)], float)
    pixels = np.array(large, float)
    counted = (full != IGNORED)[..., None]
    mixed = (1 - opacity) * pixels + opacity * palette[np.minimum(full, IGNORED)]
    return Image.fromarray(np.where(counted, mixed, pixels).astype(np.uint8))


def draw_sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], path: Path) -> None:
    """Write rows of pictures under column titles.

    Args:
        rows (`Sequence[Sequence[PIL.Image.Image]]`): Each as long as `titles`.
        titles (`Sequence[str]`): Of the columns.
        path (`Path`): Of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(titles), 2.2 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
