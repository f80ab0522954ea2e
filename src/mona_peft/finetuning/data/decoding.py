"""Stored images to PIL, with errors that name the file."""

from __future__ import annotations

import io
from typing import Any

import datasets
from PIL import Image, ImageOps
from tqdm.auto import tqdm


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message names it."""


def open_image(stored: dict[str, Any] | Image.Image, row: int | None = None) -> Image.Image:
    """Decode an image whole, upright as its EXIF data says.

    Args:
        stored (`dict` or `PIL.Image.Image`): `{"path", "bytes"}` of an undecoded `datasets.Image`, or an image.
        row (`int`, *optional*): named in the error, beside the path.

    Raises:
        `UnreadableImage`: if it is no image, or broken.
    """
    if isinstance(stored, Image.Image):
        return stored
    path, content = stored.get("path"), stored.get("bytes")
    try:
        image = Image.open(io.BytesIO(content) if content is not None else str(path))
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:
        # PIL raises OSError, SyntaxError, struct.error, DecompressionBombError and others on broken files.
        where = path or "embedded image"
        raise UnreadableImage(
            f"Cannot read {where}{'' if row is None else f' (row {row})'}: {error}. Repair it, or pass "
            "--skip_bad_images."
        ) from error


def undecoded(split: datasets.Dataset, image_column: str) -> datasets.Dataset:
    """The same split with images as paths and bytes, to be read by [`open_image`]."""
    return split.cast_column(image_column, datasets.Image(decode=False))


def skip_bad_images(split: datasets.Dataset, image_column: str, name: str) -> tuple[datasets.Dataset, list[str]]:
    """Leave out the rows whose image cannot be decoded, after trying every one.

    Args:
        split (`datasets.Dataset`): with undecoded images.
        image_column (`str`): where the images are.
        name (`str`): shown by the progress bar.

    Returns:
        `tuple[datasets.Dataset, list[str]]`: the split without them, and why each was left out.
    """
    good, problems = [], []
    column = split.select_columns([image_column])
    for row in tqdm(range(len(split)), desc=f"checking images of {name}", unit="image"):
        try:
            open_image(column[row][image_column], row)
            good.append(row)
        except UnreadableImage as error:
            problems.append(str(error))
    return (split.select(good) if problems else split), problems
