"""Read image files with errors that name the file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .images import to_rgb


def read_image(path: Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        `ValueError`: if it is missing or no readable image.
    """
    return to_rgb(_decode(path))


def read_label_map(path: Path) -> Image.Image:
    """Decode an image whose pixels are class numbers: palette indices, 8 or 16-bit grey, bilevel.

    Raises:
        `ValueError`: if it is missing, no readable image, or a colour image.
    """
    image = _decode(path)
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise ValueError(f"The label map {path} is a {image.mode} image; it must hold one class number a pixel.")
    return image


def is_readable(path: Path) -> bool:
    """Whether the file decodes as an image, read to its end."""
    try:
        _decode(path)
    except ValueError:
        return False
    return True


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Cannot read the image {path} ({error}). Replace or remove it, or pass --skip_bad_images."
        ) from error
