"""Official archives of classification data sets, unpacked on disk, as lists of image files with labels.

- Oxford Flowers102: `jpg/`, `imagelabels.mat`, `setid.mat`.
- Oxford-IIIT Pet: `images/`, `annotations/trainval.txt`, `annotations/test.txt`.
- PASCAL VOC2007: `VOCdevkit/VOC2007/` with `JPEGImages/`, `Annotations/` and `ImageSets/Main/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from mona_peft.finetuning.data.folders import DataFolder

from .voc import VOC_CLASSES, VocObject, devkit, read_image_set

POSITIVE, NEGATIVE, LEFT_OUT = 1, 0, -1


@dataclass(frozen=True)
class LabelledFiles:
    """Image files of one split with their labels.

    Args:
        paths (`list[str]`): Image files.
        labels (`Sequence[int | list[int]]`): A label each, or a row of 1, 0 and -1.
    """

    paths: list[str]
    labels: Sequence[int | list[int]]

    def to_dataset(self, class_names: list[str], multilabel: bool) -> datasets.Dataset:
        """The same as a `datasets.Dataset` whose images are read when asked for."""
        label = datasets.Sequence(datasets.Value("int8")) if multilabel else datasets.ClassLabel(names=class_names)
        features = datasets.Features({"image": datasets.Value("string"), "label": label})
        table = datasets.Dataset.from_dict({"image": self.paths, "label": self.labels}, features=features)
        return table.cast_column("image", datasets.Image())


def read_flowers102(folder: Path) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Read Flowers102: splits `train`, `validation` and `test`, and the names of the 102 classes."""
    from scipy.io import loadmat
    from torchvision.datasets import Flowers102

    labels = loadmat(_existing(folder / "imagelabels.mat"))["labels"].ravel().astype(int) - 1
    ids = loadmat(_existing(folder / "setid.mat"))
    splits = {}
    images = DataFolder(folder / "jpg")
    for split, key in (("train", "trnid"), ("validation", "valid"), ("test", "tstid")):
        numbers = ids[key].ravel().astype(int)
        paths = [str(images.file(f"image_{number:05d}.jpg", folder / "setid.mat")) for number in numbers]
        splits[split] = LabelledFiles(paths, [int(labels[number - 1]) for number in numbers])
    return splits, list(Flowers102.classes)


def read_oxford_pets(folder: Path) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Read Oxford-IIIT Pet: splits `train` (the official trainval) and `test`, and the names of the 37 breeds."""
    names: dict[int, str] = {}
    splits = {}
    images = DataFolder(folder / "images")
    for split, file_name in (("train", "trainval"), ("test", "test")):
        paths, labels = [], []
        listing = folder / "annotations" / f"{file_name}.txt"
        for line in _lines(listing):
            image, label = line.split()[:2]
            names[int(label) - 1] = image.rpartition("_")[0].replace("_", " ")
            paths.append(str(images.file(f"{image}.jpg", listing)))
            labels.append(int(label) - 1)
        splits[split] = LabelledFiles(paths, labels)
    return splits, [names.get(label, str(label)) for label in range(max(names) + 1)]


def read_voc2007(folder: Path, multilabel: bool = True) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Read VOC2007: splits `train` (the official trainval) and `test`, and the names of the 20 classes.

    Args:
        folder (`Path`): Holds `VOCdevkit/VOC2007`, or is that folder.
        multilabel (`bool`): Label every class, or only one an image (see [`single_label`]).
    """
    root = devkit(folder) / "VOC2007"
    root = root if root.is_dir() else folder
    splits = {}
    images = DataFolder(root / "JPEGImages")
    for split, image_set in (("train", "trainval"), ("test", "test")):
        paths, labels = [], []
        for name, annotation in read_image_set(root, image_set):
            objects = annotation.objects(VOC_CLASSES)
            paths.append(str(images.file(f"{name}.jpg", annotation.path)))
            labels.append(multi_label(objects) if multilabel else single_label(objects))
        splits[split] = LabelledFiles(paths, labels)
    return splits, list(VOC_CLASSES)


def multi_label(objects: list[VocObject]) -> list[int]:
    """One value a class: 1 if an object of it is there, -1 (left out) if only difficult ones are, else 0."""
    row = [NEGATIVE] * len(VOC_CLASSES)
    for item in objects:
        label = VOC_CLASSES.index(item.name)
        if not item.difficult:
            row[label] = POSITIVE
        elif row[label] == NEGATIVE:
            row[label] = LEFT_OUT
    return row


def single_label(objects: list[VocObject]) -> int:
    """Class of the object with the largest box among those not difficult (among all, if every one is difficult)."""
    if not objects:
        raise ValueError("An image without objects has no single label; use the multi-label protocol.")
    candidates = [item for item in objects if not item.difficult] or objects
    return VOC_CLASSES.index(max(candidates, key=lambda item: item.area).name)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Unpack the official archives so that it is there.")
    return path


def _lines(path: Path) -> list[str]:
    """Lines that say something: no blank ones, no comments."""
    lines = _existing(path).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
