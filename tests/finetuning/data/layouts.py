"""Small copies of the official archives' layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20 + number, 24), (number, 2 * number % 256, 0)).save(path)


def flowers102(root: Path) -> dict[str, list[int]]:
    """Nine flowers of classes 1, 1, 2, 2, 102, ...; gives the image numbers of each split."""
    labels = np.array([[1, 1, 2, 2, 102, 102, 7, 7, 7]])
    ids = {"trnid": [9, 3], "valid": [1], "tstid": [2, 4, 5, 6, 7, 8]}
    savemat(root / "imagelabels.mat", {"labels": labels})
    savemat(root / "setid.mat", {key: np.array([value]) for key, value in ids.items()})
    for number in range(1, 10):
        write_image(root / "jpg" / f"image_{number:05d}.jpg", number)
    return {"train": ids["trnid"], "validation": ids["valid"], "test": ids["tstid"]}


def oxford_pets(root: Path) -> None:
    """Four pets of three breeds."""
    annotations = root / "annotations"
    annotations.mkdir()
    (annotations / "trainval.txt").write_text(
        "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\nyorkshire_terrier_2 3 2 2\n"
    )
    (annotations / "test.txt").write_text("Abyssinian_9 1 1 1\nbeagle_4 2 2 1\n")
    for number, name in enumerate(("Abyssinian_1", "yorkshire_terrier_2", "Abyssinian_9", "beagle_4")):
        write_image(root / "images" / f"{name}.jpg", number)


def voc2007(root: Path) -> None:
    """Three images: a small dog before a large cat that is difficult; two persons; a difficult train alone."""
    base = root / "VOCdevkit" / "VOC2007"
    objects = {
        "000001": [("dog", 0, 10), ("bird", 0, 5), ("cat", 1, 50)],
        "000002": [("person", 1, 30), ("person", 0, 10)],
        "000003": [("train", 1, 10)],
    }
    (base / "Annotations").mkdir(parents=True)
    for number, (name, items) in enumerate(objects.items()):
        nodes = "".join(
            f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
            f"<xmax>{side}</xmax><ymax>{side}</ymax></bndbox></object>"
            for label, difficult, side in items
        )
        (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{nodes}</annotation>")
        write_image(base / "JPEGImages" / f"{name}.jpg", number)
    (base / "ImageSets" / "Main").mkdir(parents=True)
    (base / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n000002\n")
    (base / "ImageSets" / "Main" / "test.txt").write_text("000003\n")
