"""Images with label maps: ADE20K's folders or the Hub, any pair of folders, and the embedded scenes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.fingerprint import digest, source_name
from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.images import IGNORED, Stored, is_readable, open_label_map, open_turned, to_rgb
from mona_peft.finetuning.data.orientation import remaining_turn, turn_pixels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class LabelledImage:
    """An image and its label map.

    Args:
        image (`Path` or `Callable`): A file, or what gives the stored image.
        label_map (`Path` or `Callable`): A file, or what gives the stored image of class numbers.
    """

    image: Path | Callable[[], Stored]
    label_map: Path | Callable[[], Stored]


@dataclass(frozen=True)
class SegmentationData:
    """Splits of a semantic segmentation data set.

    Args:
        name (`str`): What to call it.
        splits (`Mapping[str, Sequence[LabelledImage]]`): `train`, and `validation` or `test` where there are such.
        class_names (`tuple[str, ...]`): By label.
        reduce_zero_label (`bool`): Whether 0 in the files means "no class" and 1 the first class, as in ADE20K.
        exif_frame (`str`, *optional*): Whether label maps are for images as they are `stored` or `upright`, where EXIF
            data turn an image and the sizes do not tell.
    """

    name: str
    splits: Mapping[str, Sequence[LabelledImage]]
    class_names: tuple[str, ...]
    reduce_zero_label: bool = False
    exif_frame: str | None = None

    def __post_init__(self) -> None:
        """Check that no class has the number that means "no class"."""
        if len(self.class_names) > IGNORED:
            raise ValueError(
                f"{self.name} has {len(self.class_names)} classes; with more than {IGNORED}, one would "
                f"have the label {IGNORED}, which is left out."
            )

    def fingerprint(self) -> str:
        """Hash of the class names, and of the names of every image and label map; no file is read."""
        parts: list[Any] = [self.class_names, self.reduce_zero_label]
        for name, samples in sorted(self.splits.items()):
            parts += [name, [(source_name(one.image), source_name(one.label_map)) for one in samples]]
        return digest(parts)

    def read(self, sample: LabelledImage) -> tuple[Image.Image, np.ndarray]:
        """The upright RGB image and its labels `(H, W)`, int64 with 255 where there is none.

        Raises:
            ValueError: If a file cannot be read, sizes differ, a label is out of range, or EXIF data turn the image
                and nothing tells whether its label map is already turned.
        """
        image, orientation = open_turned(*_stored(sample.image))
        label_map, own_orientation = open_label_map(*_stored(sample.label_map))
        # A label map with an orientation of its own has been turned upright by it.
        frame = self.exif_frame if own_orientation == 1 else "upright"
        name = f"{sample.image} of the label map {sample.label_map}"
        turn = remaining_turn(orientation, image.size, label_map.size, frame, name)
        stored = np.asarray(label_map)
        labels = reduce_zero(stored) if self.reduce_zero_label else stored.astype(np.int64)
        self._check(labels[labels != IGNORED], sample)
        return to_rgb(image), np.ascontiguousarray(turn_pixels(labels, turn))

    def _check(self, counted: np.ndarray, sample: LabelledImage) -> None:
        low, high = counted.min(initial=0), counted.max(initial=0)
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"{sample.label_map} has the label {low if low < 0 else high}, but there are {len(self.class_names)} "
                f"classes, numbered from 0 ({IGNORED} is left out). Give all class names, or set reduce_zero_label."
            )


def _stored(source: Path | Callable[[], Stored]) -> tuple[Stored, int | None]:
    """The stored image, and its row in a table."""
    return (source, None) if isinstance(source, Path) else (source(), getattr(source, "row", None))


def reduce_zero(stored: np.ndarray) -> np.ndarray:
    """Labels `(H, W)` as ADE20K stores them (0 is no class) to labels from 0, with 255 for no class, int64."""
    labels = stored.astype(np.int64) - 1
    labels[(stored == 0) | (stored == IGNORED)] = IGNORED
    return labels


def pair_folders(images: Path, label_maps: Path) -> list[LabelledImage]:
    """Pair the files of two folders by their names without suffix, in alphabetical order.

    Raises:
        FileNotFoundError: If a folder is missing, is empty, or an image has no label map.
    """
    for folder in (images, label_maps):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
    found = {path.stem: path for path in _image_files(label_maps)}
    pairs = []
    for path in sorted(_image_files(images)):
        if path.stem not in found:
            raise FileNotFoundError(f"{path} has no label map in {label_maps}; add it or remove the image.")
        pairs.append(LabelledImage(path, found[path.stem]))
    if not pairs:
        raise FileNotFoundError(f"{images} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return pairs


def _image_files(folder: Path) -> list[Path]:
    inside = DataFolder(folder)
    return [inside.file(name, folder) for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]


def load_folders(
    root: Path,
    class_names: Sequence[str],
    reduce_zero_label: bool,
    exif_frame: str | None,
    folders: Mapping[str, str],
) -> SegmentationData:
    """Load `root/images/FOLDER` with `root/annotations/FOLDER`.

    Args:
        root (`Path`): The data set.
        class_names (`Sequence[str]`): See `SegmentationData`.
        reduce_zero_label (`bool`): See `SegmentationData`.
        exif_frame (`str`, *optional*): See `SegmentationData`.
        folders (`Mapping[str, str]`): Folder of each split.

    Raises:
        FileNotFoundError: If there is no training split.
    """
    if "train" not in folders:
        raise FileNotFoundError(f"There is no folder {root / 'images' / 'training'}.")
    splits = {
        split: pair_folders(root / "images" / folder, root / "annotations" / folder)
        for split, folder in folders.items()
    }
    return SegmentationData(root.name, splits, tuple(class_names), reduce_zero_label, exif_frame)


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
