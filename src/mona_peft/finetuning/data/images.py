"""Stored images to PIL: the one place where the package opens them, with errors that name the file.

Every image is decoded whole and turned upright as its EXIF data says, for training, evaluation and prediction.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps, features

from mona_peft.finetuning.environment import is_first_process

# Colour put behind transparent pixels.
BACKGROUND = (255, 255, 255)
#: Label of pixels that belong to no class.
IGNORED = 255
#: How names of pictures in folders end; AVIF where Pillow was built with it.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jfif"),
    *((".avif",) if features.check("avif") else ()),
)
#: How names of pictures end that may be of a kind that is not read.
PICTURE_SUFFIXES = (
    *IMAGE_SUFFIXES,
    ".gif",
    ".avif",
    ".avifs",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".dng",
    ".cr2",
    ".nef",
)


class StoredImage(TypedDict):
    """An undecoded `datasets.Image`.

    Args:
        path (`str`, *optional*): Of its file.
        bytes (`bytes`, *optional*): Of the file, where they are in the table.
    """

    path: str | None
    bytes: bytes | None


Stored = StoredImage | Path | Image.Image | None
#: Where an image is: a file, or what gives the stored image; of a table, it knows its `row`.
Source = Path | Callable[[], Stored]


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message names it."""


def warn_of_skipped(folder: Path, names: Iterable[Path | str], read: Container[str] = IMAGE_SUFFIXES) -> None:
    """Say how many pictures of a folder are left out, because they are of a kind that is not read.

    Args:
        folder (`Path`): The folder, for the message.
        names (`Iterable`): Of all its files.
        read (`Container[str]`): The suffixes that are read.
    """
    suffixes = (os.path.splitext(name)[1].lower() for name in names)
    kinds = Counter(suffix for suffix in suffixes if suffix in PICTURE_SUFFIXES and suffix not in read)
    if kinds and is_first_process():
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(kinds.items()))
        warnings.warn(f"{folder}: pictures that are not read are left out: {counts}. Save them as PNG.", stacklevel=2)


def open_image(stored: Stored, row: int | None = None) -> Image.Image:
    """Decode an image whole, upright as its EXIF data says.

    Args:
        stored (`dict`, `Path` or `PIL.Image.Image`): `{"path", "bytes"}` of an undecoded `datasets.Image`, a file, or
            an image.
        row (`int`, *optional*): Named in the error, with the path.

    Raises:
        UnreadableImage: If it is missing, no image, broken, or larger than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    return open_turned(stored, row)[0]


def open_turned(stored: Stored, row: int | None = None) -> tuple[Image.Image, int]:
    """Decode an image as [`open_image`] does, and give the EXIF orientation (1 to 8) by which it was turned."""
    try:
        if isinstance(stored, Image.Image):
            return _decode(stored)
        with Image.open(_source(stored)) as image:
            return _decode(image)
    except Exception as error:
        # PIL raises OSError, ValueError, SyntaxError, struct.error, DecompressionBombError and others on broken files.
        raise _unreadable(stored, row, error) from error


def image_size(stored: Stored, row: int | None = None) -> tuple[tuple[int, int], int]:
    """Width and height of an image as it is stored, and its EXIF orientation (1 to 8); its pixels are not decoded.

    Raises:
        UnreadableImage: If [`open_image`] would raise it before it decodes.
    """
    try:
        if isinstance(stored, Image.Image):
            return stored.size, exif_orientation(stored)
        with Image.open(_source(stored)) as image:
            return image.size, exif_orientation(image)
    except Exception as error:
        raise _unreadable(stored, row, error) from error


def stored_in(source: Source) -> tuple[Stored, int | None]:
    """The stored image of a source, and its row in a table."""
    return (source, None) if isinstance(source, Path) else (source(), getattr(source, "row", None))


def open_label_map(stored: Stored, row: int | None = None) -> tuple[Image.Image, int]:
    """Decode an image whose pixels are class numbers: palette indices, 8 or 16-bit grey, bilevel.

    Returns:
        `tuple[PIL.Image.Image, int]`: The upright label map, and the EXIF orientation by which it was turned.

    Raises:
        UnreadableImage: If [`open_image`] raises it.
        ValueError: If it is a colour image.
    """
    image, orientation = open_turned(stored, row)
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise ValueError(
            f"The label map {_name(stored)} is a {image.mode} image; it must hold one class number a pixel."
        )
    return image, orientation


def is_readable(source: Source) -> bool:
    """Whether a source decodes as an image, read to its end."""
    try:
        open_image(*stored_in(source))
    except UnreadableImage:
        return False
    return True


def to_rgb(image: Image.Image) -> Image.Image:
    """Give back `image` upright, as 8-bit RGB.

    Transparency is laid on white; palettes are resolved; grey, 16-bit and 32-bit grey, CMYK and bilevel images are
    converted. PIL alone clips 16-bit values at 255 instead of scaling them.

    Args:
        image (`PIL.Image.Image`): An image in any mode.
    """
    image = _turn(image, exif_orientation(image))
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _scale_to_8_bit(image)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 (upright) if it has none or an unknown one."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _unreadable(stored: Stored, row: int | None, error: Exception) -> UnreadableImage:
    where = _name(stored) + ("" if row is None else f" (row {row})")
    return UnreadableImage(f"Cannot read {where}: {error}. Repair or replace it, or pass --skip_bad_images.")


def _decode(image: Image.Image) -> tuple[Image.Image, int]:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, more than {limit} in all; shrink it, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        )
    # Some formats (TIFF) are turned by PIL while they load, and have no orientation afterwards.
    orientation = exif_orientation(image)
    image.load()
    return _turn(image, exif_orientation(image)), orientation


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    # exif_transpose copies an image that is upright.
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _source(stored: StoredImage | Path | None) -> io.BytesIO | str:
    """What PIL opens: bytes, or the path of a regular file."""
    if stored is None:
        raise ValueError("there is none")
    content = stored.get("bytes") if isinstance(stored, dict) else None
    if content is not None:
        return io.BytesIO(content)
    path = stored.get("path") if isinstance(stored, dict) else str(stored)
    if path is None:
        raise ValueError("there is none")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")  # opening a pipe would wait for ever
    return path


def _name(stored: Stored) -> str:
    path = stored.get("path") if isinstance(stored, dict) else stored if isinstance(stored, Path) else None
    return str(path or "the embedded image")


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale a grey image of 16 bits (or wider integers, taken as 16-bit) or of floats in [0, 1] to 8 bits.

    Floats above 1 are taken as 0 to 255 already; NaN becomes 0.
    """
    scaled = np.nan_to_num(np.asarray(image).astype(np.float32), nan=0)
    most = scaled.max(initial=0)
    if image.mode == "F":
        scaled *= 255 if most <= 1 else 1
    elif image.mode != "I" or most > 255:
        scaled /= 257
    return Image.fromarray(np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8))
