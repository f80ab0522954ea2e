"""Drawings in classes, from Debian's package openclipart-png: the Open Clip Art Library of 2005, public domain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .download import Download, run_client
from .pictures import Picture, split_things, thing, write_pictures

PACKAGE = Download(
    package="openclipart-png 1:0.18+dfsg-19 (Debian)",
    file_name="openclipart-png_1%3a0.18+dfsg-19_all.deb",
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    command=("apt-get", "download", "openclipart-png=1:0.18+dfsg-19"),
    licence="public domain",
)
PICTURES = "usr/share/openclipart/png"
#: Class -> folders of the library, with all below them.
CLASSES: dict[str, tuple[str, ...]] = {
    "beverages": ("food/beverages",),
    "birds": ("animals/birds",),
    "bugs": ("animals/bugs",),
    "clothing": ("people/clothing",),
    "fruit": ("food/fruit",),
    "hardware": ("computer/hardware",),
    "mammals": ("animals/mammals",),
    "music": ("recreation/music",),
    "plants": ("plants",),
    "sports": ("recreation/sports",),
}
SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}


def prepare_clipart(folder: Path) -> Path:
    """Write the pictures to `folder / "clipart"`, in class folders for training, validation and test."""
    counts = write_pictures(find_pictures(fetch_clipart(folder)), folder / "clipart")
    print({split: sum(classes.values()) for split, classes in counts.items()}, "pictures in", len(CLASSES), "classes")
    return folder / "clipart"


def fetch_clipart(folder: Path) -> Path:
    """Download and unpack the library in `folder / "downloads"`; gives the folder of its pictures."""
    package = PACKAGE.fetch(folder / "downloads")
    unpacked = folder / "downloads" / "openclipart"
    if not unpacked.exists():
        run_client(("dpkg", "-x", package.name, unpacked.name), package.parent)
    return unpacked / PICTURES


def find_pictures(root: Path) -> Iterator[Picture]:
    """The pictures of the classes; versions of one drawing are in one split."""
    for label, folders in CLASSES.items():
        files = [file for folder in folders for file in sorted((root / folder).rglob("*.png"))]
        splits = split_things([thing(file.stem) for file in files], SHARES)
        for file, split in zip(files, splits, strict=True):
            yield Picture(file, label, split, file.stem)
