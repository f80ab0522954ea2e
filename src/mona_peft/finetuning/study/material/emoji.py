"""Emoji drawn by two vendors: train on Google's, test on Twitter's.

From npm's emoji-datasource-google and emoji-datasource-twitter (MIT licence; the pictures are Noto Emoji, Apache-2.0,
and Twemoji, CC BY 4.0). The classes are the subcategories of the Unicode standard that show things.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from .download import Download
from .pictures import Picture, split_things, write_pictures

VERSION = "16.0.0"
LICENCES = {"google": "Apache-2.0 (Noto Emoji)", "twitter": "CC BY 4.0 (Twemoji)"}
HASHES = {
    "google": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "twitter": "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
}
CLASSES = (
    "animal-bird",
    "animal-mammal",
    "clothing",
    "drink",
    "food-fruit",
    "food-prepared",
    "household",
    "sport",
    "tool",
    "transport-ground",
)
#: Google's drawings; Twitter's are the test split.
SHARES = {"train": 0.7, "validation": 0.3}


def prepare_emoji(folder: Path) -> Path:
    """Write the pictures to `folder / "emoji"`, in class folders for training, validation (Google's) and test."""
    unpacked = {vendor: unpack(vendor, folder / "downloads") for vendor in HASHES}
    counts = write_pictures(find_pictures(unpacked), folder / "emoji")
    print({split: sum(classes.values()) for split, classes in counts.items()}, "pictures in", len(CLASSES), "classes")
    return folder / "emoji"


def unpack(vendor: str, folder: Path) -> Path:
    """Download one vendor's package and give the folder with its files."""
    name = f"emoji-datasource-{vendor}"
    package = Download(
        package=f"{name} {VERSION} (npm)",
        file_name=f"{name}-{VERSION}.tgz",
        sha256=HASHES[vendor],
        command=("npm", "pack", "--silent", f"{name}@{VERSION}"),
        licence=LICENCES[vendor],
    ).fetch(folder)
    target = folder / name
    if not target.exists():
        with tarfile.open(package) as archive:
            archive.extractall(target, filter="data")
    return target / "package"


def find_pictures(folders: dict[str, Path]) -> Iterator[Picture]:
    """The emoji of the classes that both vendors have drawn."""
    emoji = json.loads((folders["google"] / "emoji.json").read_text(encoding="utf-8"))
    shown = [one for one in emoji if one["subcategory"] in CLASSES and all(one[f"has_img_{v}"] for v in HASHES)]
    for label in CLASSES:
        mine = [one for one in shown if one["subcategory"] == label]
        splits = split_things([one["unified"] for one in mine], SHARES)
        yield from (_picture(one, "google", split, folders) for one, split in zip(mine, splits, strict=True))
        yield from (_picture(one, "twitter", "test", folders) for one in mine)


def _picture(one: Mapping[str, str], vendor: str, split: str, folders: dict[str, Path]) -> Picture:
    label = one["subcategory"].replace(" & ", "-")
    return Picture(folders[vendor] / "img" / vendor / "64" / one["image"], label, split, one["short_name"])
