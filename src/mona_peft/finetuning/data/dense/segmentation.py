"""Images with label maps: ADE20K's folders or the Hub, any pair of folders, and the embedded scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.reading import is_readable, read_image, read_label_map

IGNORED = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class LabelledImage:
    """An image and its label map.

    Args:
        image (`Path` or `Callable`): a file, or what makes the RGB image.
        label_map (`Path` or `Callable`): a file, or what makes the image of class numbers.
    """

    image: Path | Callable[[], Image.Image]
    label_map: Path | Callable[[], Image.Image]


@dataclass(frozen=True)
class SegmentationData:
    """Splits of a semantic segmentation data set.

    Args:
        name (`str`): what to call it.
        splits (`Mapping[str, Sequence[LabelledImage]]`): `train`, and `validation` or `test` where there are such.
        class_names (`tuple[str, ...]`): by label.
        reduce_zero_label (`bool`): whether 0 in the files means "no class" and 1 the first class, as in ADE20K.
    """

    name: str
    splits: Mapping[str, Sequence[LabelledImage]]
    class_names: tuple[str, ...]
    reduce_zero_label: bool = False

    def read(self, sample: LabelledImage) -> tuple[Image.Image, np.ndarray]:
        """The RGB image and its labels `(H, W)`, uint8 with 255 where there is none (int64 above 255 classes).

        Raises:
            `ValueError`: if a file cannot be read, sizes differ, or a label is out of range.
        """
        image = read_image(sample.image) if isinstance(sample.image, Path) else sample.image()
        stored = read_label_map(sample.label_map) if isinstance(sample.label_map, Path) else sample.label_map()
        labels = reduce_zero(np.asarray(stored)) if self.reduce_zero_label else np.asarray(stored)
        labels = labels.astype(np.int64)
        if labels.shape != (image.height, image.width):
            raise ValueError(f"{sample.label_map} is {labels.shape}, {sample.image} is {(image.height, image.width)}.")
        counted = labels[labels != IGNORED]
        if counted.max(initial=0) >= len(self.class_names):
            raise ValueError(
                f"{sample.label_map} has the label {counted.max()}, but there are {len(self.class_names)} classes, "
                f"numbered from 0 ({IGNORED} is left out). Give all class names, or set reduce_zero_label."
            )
        return image, labels


def reduce_zero(stored: np.ndarray) -> np.ndarray:
    """Labels `(H, W)` as ADE20K stores them (0 is no class) to labels from 0, with 255 for no class."""
    labels = stored.astype(np.int64) - 1
    labels[(stored == 0) | (stored == IGNORED)] = IGNORED
    return labels


def pair_folders(images: Path, label_maps: Path) -> list[LabelledImage]:
    """Pair the files of two folders by their names without suffix, in alphabetical order.

    Raises:
        `FileNotFoundError`: if a folder is missing, is empty, or an image has no label map.
    """
    for folder in (images, label_maps):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
    found = {path.stem: path for path in label_maps.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    pairs = []
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem not in found:
            raise FileNotFoundError(f"{path} has no label map in {label_maps}; add it or remove the image.")
        pairs.append(LabelledImage(path, found[path.stem]))
    if not pairs:
        raise FileNotFoundError(f"{images} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return pairs


def load_folders(root: Path, class_names: Sequence[str], reduce_zero_label: bool = False) -> SegmentationData:
    """Load `root/images/SPLIT` with `root/annotations/SPLIT` for every split that is there (`training` is `train`).

    Raises:
        `FileNotFoundError`: if there is no training split.
    """
    splits = {}
    for folder, split in (("training", "train"), ("train", "train"), ("validation", "validation"), ("test", "test")):
        if (root / "images" / folder).is_dir():
            splits[split] = pair_folders(root / "images" / folder, root / "annotations" / folder)
    if "train" not in splits:
        raise FileNotFoundError(f"There is no folder {root / 'images' / 'training'}.")
    return SegmentationData(root.name, splits, tuple(class_names), reduce_zero_label)


def without_unreadable(data: SegmentationData) -> tuple[SegmentationData, list[Path]]:
    """Leave out the samples of which a file cannot be read, and list those files."""
    bad: list[Path] = []
    splits = {}
    for split, samples in data.splits.items():
        kept = []
        for sample in samples:
            files = [part for part in (sample.image, sample.label_map) if isinstance(part, Path)]
            broken = [path for path in files if not is_readable(path)]
            bad.extend(broken)
            if not broken:
                kept.append(sample)
        splits[split] = kept
    return replace(data, splits=splits), bad
