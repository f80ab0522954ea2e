"""Pictures in class folders, split so that drawings of one thing stay together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mona_peft.finetuning.data.images import to_rgb

from .own_folder import making

#: Longer side of the stored pictures, in pixels.
SIDE = 256
SPLITS = ("train", "validation", "test")


class Picture(NamedTuple):
    """One picture and where it goes.

    Args:
        path (`Path`): The file.
        label (`str`): Its class.
        split (`str`): One of `SPLITS`.
        name (`str`): Stem of the file that is written.
    """

    path: Path
    label: str
    split: str
    name: str


def write_pictures(pictures: Iterable[Picture], folder: Path) -> dict[str, dict[str, int]]:
    """Write pictures as `folder / split / class / name.png`, in RGB on white.

    A picture that occurs again, pixel by pixel, is written once: in the first split that has it. One that has more
    pixels than Pillow decodes is left out.

    Args:
        pictures (`Iterable[Picture]`): What to write.
        folder (`Path`): Where to; what was written there before is replaced.

    Returns:
        `dict[str, dict[str, int]]`: Pictures by split and class.

    Raises:
        ValueError: If the folder holds other files.
    """
    pictures = sorted(pictures, key=lambda one: SPLITS.index(one.split))
    with making(folder, map(_name_of, pictures)) as made:
        return _write(pictures, made)


def _name_of(picture: Picture) -> str:
    return f"{picture.split}/{picture.label}/{picture.name}.png"


def _write(pictures: Iterable[Picture], folder: Path) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    seen: set[str] = set()
    for picture in pictures:
        image = read_small(picture.path)
        if image is None:
            continue
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        target = folder / _name_of(picture)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
        of_split = counts.setdefault(picture.split, {})
        of_split[picture.label] = of_split.get(picture.label, 0) + 1
    return counts


def read_small(path: Path) -> Image.Image | None:
    """A picture of at most `SIDE` pixels a side; None for one that is too large to decode."""
    try:
        with Image.open(path) as opened:
            image = to_rgb(opened)
            image.thumbnail((SIDE, SIDE))
    except Image.DecompressionBombError:
        return None
    return image


def split_things(names: Sequence[str], shares: dict[str, float]) -> list[str]:
    """Split the pictures of one class so that those of one thing stay together, the same on every machine.

    Args:
        names (`Sequence[str]`): The thing that each picture shows.
        shares (`dict[str, float]`): Of the splits; they add up to 1.

    Returns:
        `list[str]`: The split of each picture. Things go into the splits one after another, in the order of their
        hashes, each split until it has its share.
    """
    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    ends = dict(zip(shares, accumulate(shares.values()), strict=True))
    splits: dict[str, str] = {}
    done = 0
    for name in order:
        place = done / len(names)
        splits[name] = next(split for split, end in ends.items() if place < end - 1e-9)
        done += names.count(name)
    return [splits[name] for name in names]


def thing(stem: str) -> str:
    """The name of a drawing without what tells its versions apart: numbers and the marks around them."""
    return re.sub(r"[\W_]*\d+[\W_\d]*", "_", stem.lower()).strip("_")
