"""Checks of what `datasets` reads: whole shards, an image in every row, files inside the data set's folder."""

from __future__ import annotations

import os
import tarfile
import warnings
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub.constants import HF_HUB_CACHE
from tqdm.auto import tqdm

from mona_peft.finetuning.data.classification.dataset import arrow_column
from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.images import UnreadableImage, open_image

BLOCK = 512


def undecoded(split: datasets.Dataset, image_column: str) -> datasets.Dataset:
    """The same split with images as paths and bytes, to be read by `open_image`."""
    return split.cast_column(image_column, datasets.Image(decode=False))


def check_shards(folder: Path) -> None:
    """Check that the parquet files and tar archives of a folder are whole; their contents are not read.

    Raises:
        ValueError: If one is cut off or no such file; the message names it.
    """
    for path in sorted(folder.rglob("*")):
        check = {".parquet": _check_parquet, ".tar": _check_tar}.get(path.suffix.lower())
        if check is None or not path.is_file():
            continue
        try:
            check(path)
        except (tarfile.TarError, pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged or cut off: {error}. Copy or download it again.") from error


def _check_parquet(path: Path) -> None:
    pq.read_metadata(path)


def _check_tar(path: Path) -> None:
    """An archive ends in two blocks of zeros; without them, it must at least end where a member does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2 * BLOCK))
        if size >= 2 * BLOCK and not file.read().strip(b"\0"):
            return
        with tarfile.open(path, "r:") as archive:
            for _ in archive:
                pass
            end = archive.offset
        file.seek(end)
        rest = file.read(BLOCK)
    if rest and (len(rest) < BLOCK or rest.strip(b"\0")):
        raise tarfile.ReadError(f"what is at byte {end} is no member")


def check_images(split: datasets.Dataset, image_column: str, name: str, folder: Path | None) -> None:
    """Check that every row has an image, and that images in files of their own are inside the data set's folder.

    Args:
        split (`datasets.Dataset`): With undecoded images, which are not read.
        image_column (`str`): Where the images are.
        name (`str`): Of the split, for messages.
        folder (`Path`, *optional*): Of the data set; the caches of the Hub and of `datasets` are allowed too.

    Raises:
        ValueError: If a row has no image, or its image is elsewhere or no regular file; the message names the row.
    """
    bytes_null, paths = _stored_images(split, image_column)
    missing = pc.and_(bytes_null, pc.is_null(paths))
    first = pc.index(missing, True).as_py()
    if first >= 0:
        raise ValueError(f"Row {first} of {name} has no image (null). Add it, or pass --skip_bad_images.")
    inside = image_folder(folder)
    for row in np.flatnonzero(bytes_null.to_numpy(zero_copy_only=False)):
        inside.file(os.path.abspath(paths[int(row)].as_py()), f"Row {row} of {name}")


def image_folder(folder: Path | None) -> DataFolder:
    """Where images in files of their own may be: the data set's folder, and the caches of the Hub and `datasets`."""
    caches = [Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]
    return DataFolder(folder or caches[0], caches)


def _stored_images(split: datasets.Dataset, image_column: str) -> tuple[pa.Array, pa.Array]:
    """Which rows have no bytes, and the paths of all."""
    column = arrow_column(split, image_column)
    return pc.is_null(pc.struct_field(column, "bytes")), pc.struct_field(column, "path")


def skip_bad_images(split: datasets.Dataset, image_column: str, name: str) -> datasets.Dataset:
    """Leave out the rows whose image is missing or cannot be decoded, after trying every one; a warning lists them.

    Args:
        split (`datasets.Dataset`): With undecoded images.
        image_column (`str`): Where the images are.
        name (`str`): Of the split.
    """
    good, problems = [], []
    column = split.select_columns([image_column])
    for row in tqdm(range(len(split)), desc=f"checking images of {name}", unit="image"):
        try:
            open_image(column[row][image_column], row)
            good.append(row)
        except UnreadableImage as error:
            problems.append(str(error))
    if problems:
        listed = "\n  ".join(problems)
        warnings.warn(f"Left out {len(problems)} images of {name}:\n  {listed}", stacklevel=2)
        split = split.select(good)
    return split
