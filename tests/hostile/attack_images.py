"""Spoilt image files: decoded whole to RGB, or refused by name."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.images import open_image, to_rgb

from .mangle import mangle_file

FORMATS = {
    "png": ("RGB", "RGBA", "L", "P", "I;16", "1"),
    "jpg": ("RGB", "L", "CMYK"),
    "gif": ("P",),
    "tiff": ("RGB", "F"),
    "webp": ("RGB", "RGBA"),
    "bmp": ("RGB",),
}


def attack(rng: random.Random, folder: Path) -> None:
    """Open an image that was spoilt after it was written."""
    ending = rng.choice(list(FORMATS))
    mode = rng.choice(FORMATS[ending])
    size = rng.choice([(1, 1), (7, 3), (40, 30)])
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = folder / f"image.{ending}"
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(pixels).convert(mode).save(path)
    done = mangle_file(rng, path)
    image = to_rgb(open_image(path))
    assert image.mode == "RGB" and np.asarray(image).shape == (*image.size[::-1], 3), done
