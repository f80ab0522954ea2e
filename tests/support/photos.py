"""Folders of generated photos: coloured noise, a folder a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def write_photos(folder: Path, each: int = 6, classes: int = 3) -> Path:
    """Write `each` JPEG files for each of some classes, of several sizes."""
    generator = np.random.default_rng(0)
    for name, colour in list(COLOURS.items())[:classes]:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = generator.normal(colour, 40, (36 + number, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return folder
