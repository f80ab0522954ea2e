"""Checks of what `datasets` reads."""

from __future__ import annotations

import datasets
from tqdm.auto import tqdm

from mona_peft.finetuning.data.images import UnreadableImage, open_image


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
