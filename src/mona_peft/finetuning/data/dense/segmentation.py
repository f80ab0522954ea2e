"""Images with label maps: ADE20K's folders or the Hub, any pair of folders, and the embedded scenes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.fingerprint import digest, source_name
from mona_peft.finetuning.data.folders import DataFolder
from mona_peft.finetuning.data.images import (
    IGNORED,
    IMAGE_SUFFIXES,
    Source,
    is_readable,
    open_label_map,
    open_turned,
    stored_in,
    to_rgb,
    warn_of_skipped,
)
from mona_peft.finetuning.data.orientation import remaining_turn, turn_pixels

from .legend import Legend

#: What folders of images and of label maps are called, and what the names of label maps end in.
IMAGE_FOLDERS = ("images", "image", "imgs", "JPEGImages")
MASK_FOLDERS = ("annotations", "masks", "labels", "mask", "label_maps", "SegmentationClass")
MASK_ENDINGS = ("_mask", "_label", "_labels", "_L", "_gt", "_seg")
LOSSY = (".jpg", ".jpeg", ".jfif")


@dataclass(frozen=True)
class LabelledImage:
    """An image and its label map.

    Args:
        image (`Path` or `Callable`): A file, or what gives the stored image.
        label_map (`Path` or `Callable`): A file, or what gives the stored image of class numbers.
    """

    image: Source
    label_map: Source


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
        legend (`Legend`, *optional*): Which class a stored number or colour is, where it is not the number itself.
    """

    name: str
    splits: Mapping[str, Sequence[LabelledImage]]
    class_names: tuple[str, ...]
    reduce_zero_label: bool = False
    exif_frame: str | None = None
    legend: Legend | None = None

    def __post_init__(self) -> None:
        """Check that no class has the number that means "no class"."""
        if len(self.class_names) > IGNORED:
            raise ValueError(
                f"{self.name} has {len(self.class_names)} classes; with more than {IGNORED}, one would "
                f"have the label {IGNORED}, which is left out."
            )

    def fingerprint(self) -> str:
        """Hash of the class names, and of the names of every image and label map; no file is read."""
        parts: list[object] = [self.class_names, self.reduce_zero_label]
        if self.legend is not None:
            parts += [self.legend.keys, self.legend.labels]
        for name, samples in sorted(self.splits.items()):
            parts += [name, [(source_name(one.image), source_name(one.label_map)) for one in samples]]
        return digest(parts)

    def read(self, sample: LabelledImage) -> tuple[Image.Image, np.ndarray]:
        """The upright RGB image and its labels `(H, W)`, int64 with 255 where there is none.

        Raises:
            ValueError: If a file cannot be read, sizes differ, a label is out of range, or EXIF data turn the image
                and nothing tells whether its label map is already turned.
        """
        image, orientation = open_turned(*stored_in(sample.image))
        label_map, own_orientation = self._open_labels(sample)
        # A label map with an orientation of its own has been turned upright by it.
        frame = self.exif_frame if own_orientation == 1 else "upright"
        name = f"{sample.image} of the label map {sample.label_map}"
        turn = remaining_turn(orientation, image.size, label_map.size, frame, name)
        labels = self._labels(label_map, str(sample.label_map))
        self._check(labels[labels != IGNORED], sample)
        return to_rgb(image), np.ascontiguousarray(turn_pixels(labels, turn))

    def pixels(self, split: str) -> np.ndarray:
        """How many pixels each class has in each label map of a split, `(images, classes)`; all are read once.

        Raises:
            ValueError: If one cannot be read, or has a label out of range.
        """
        if split not in self._pixels:
            counts = [self._count_pixels(sample) for sample in self.splits[split]]
            self._pixels[split] = np.array(counts, int).reshape(len(counts), len(self.class_names))
        return self._pixels[split]

    @cached_property
    def _pixels(self) -> dict[str, np.ndarray]:
        """What [`pixels`] counted, by split."""
        return {}

    @property
    def training_classes(self) -> list[set[int]]:
        """Of each training image, the classes in its label map."""
        return [set(np.flatnonzero(counts).tolist()) for counts in self.pixels("train")]

    def _count_pixels(self, sample: LabelledImage) -> np.ndarray:
        """Pixels of each class in a label map, which alone is read; raises what [`read`] raises of it."""
        labels = self._labels(self._open_labels(sample)[0], str(sample.label_map))
        counted = labels[labels != IGNORED]
        self._check(counted, sample)
        return np.bincount(counted, minlength=len(self.class_names))

    def _open_labels(self, sample: LabelledImage) -> tuple[Image.Image, int]:
        """The stored label map, upright, and its own orientation."""
        opened = open_turned if self.legend and self.legend.coloured else open_label_map
        return opened(*stored_in(sample.label_map))

    def _labels(self, label_map: Image.Image, name: str) -> np.ndarray:
        """What a stored label map says, `(H, W)`."""
        if self.legend is not None:
            return self.legend.read(label_map, name)
        stored = np.asarray(label_map)
        return reduce_zero(stored) if self.reduce_zero_label else stored.astype(np.int64)

    def _check(self, counted: np.ndarray, sample: LabelledImage) -> None:
        low, high = counted.min(initial=0), counted.max(initial=0)
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"{sample.label_map} has the label {low if low < 0 else high}, but there are {len(self.class_names)} "
                f"classes, numbered from 0 ({IGNORED} is left out). Give all class names, or set reduce_zero_label."
            )


def reduce_zero(stored: np.ndarray) -> np.ndarray:
    """Labels `(H, W)` as ADE20K stores them (0 is no class) to labels from 0, with 255 for no class, int64."""
    labels = stored.astype(np.int64) - 1
    labels[(stored == 0) | (stored == IGNORED)] = IGNORED
    return labels


def pair_folders(images: Path, label_maps: Path) -> list[LabelledImage]:
    """Pair the files of two folders by their names without suffix, in alphabetical order.

    A label map may have one of `MASK_ENDINGS` to its name, and then be in the folder of the images.

    Raises:
        FileNotFoundError: If a folder is missing, is empty, an image has no label map, or a label map no image.
        ValueError: If two label maps have one name, or one is a JPEG.
    """
    for folder in (images, label_maps):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
    together = os.path.samefile(images, label_maps)
    found = _maps_by_name([p for p in _image_files(label_maps) if not together or p.stem.endswith(MASK_ENDINGS)])
    pairs = []
    for path in _image_files(images):
        if together and path.stem.endswith(MASK_ENDINGS):
            continue
        usual = (path.stem + ending for ending in ("", *MASK_ENDINGS))
        label_map = next((found[stem] for stem in usual if stem in found), None)
        if label_map is None:
            raise FileNotFoundError(f"{path} has no label map in {label_maps}; add it or remove the image.")
        pairs.append(LabelledImage(path, label_map))
    if not pairs:
        raise FileNotFoundError(f"{images} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    paired = {pair.label_map for pair in pairs}
    lone = [path for path in found.values() if path not in paired]
    if lone:
        raise FileNotFoundError(
            f"{len(lone)} label maps have no image in {images}, such as {lone[0]}. Add the images, or take those "
            "label maps out."
        )
    return pairs


def _maps_by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Label maps by their names without suffix.

    Raises:
        ValueError: If two have one name, or one is a JPEG.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in LOSSY:
            raise ValueError(f"The label map {path} is a JPEG, which changes numbers and colours; give it as PNG.")
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path} are label maps of one image; keep one of them.")
        found[path.stem] = path
    return found


def _image_files(folder: Path) -> list[Path]:
    inside = DataFolder(folder)
    names = sorted(os.listdir(folder))
    warn_of_skipped(folder, names)
    return [inside.file(name, folder) for name in names if name.lower().endswith(IMAGE_SUFFIXES)]


def find_pairs(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and of label maps of each split, by its own name; those without splits train."""
    kinds = [(one, other) for one in IMAGE_FOLDERS for other in MASK_FOLDERS]
    parents = [root, *(root / kind for kind in IMAGE_FOLDERS)]
    names = {folder.name for parent in parents if parent.is_dir() for folder in parent.iterdir() if folder.is_dir()}
    found = {}
    for name in sorted(names):
        pairs = [(f"{one}/{name}", f"{other}/{name}") for one, other in kinds]
        pairs += [(f"{name}/{one}", f"{name}/{other}") for one, other in kinds]
        pairs += [(name, f"{name}_{other}") for other in MASK_FOLDERS]
        if next((root / name).glob(f"*{MASK_ENDINGS[0]}.png"), None):
            pairs.append((name, name))
        if pair := _first_pair(root, pairs):
            found[name] = pair
    flat = None if found else _first_pair(root, kinds)
    return {"train": flat} if flat else found


def _first_pair(root: Path, pairs: Sequence[tuple[str, str]]) -> tuple[Path, Path] | None:
    """The first pair of folders that is there."""
    there = ((root / one, root / other) for one, other in pairs)
    return next((pair for pair in there if pair[0].is_dir() and pair[1].is_dir()), None)


def load_folders(
    root: Path,
    class_names: Sequence[str],
    pairs: Mapping[str, tuple[Path, Path]],
    reduce_zero_label: bool = False,
    exif_frame: str | None = None,
    legend: Legend | None = None,
) -> SegmentationData:
    """Load folders of images with folders of label maps.

    Args:
        root (`Path`): The data set.
        class_names (`Sequence[str]`): By label.
        pairs (`Mapping[str, tuple[Path, Path]]`): By split, its folder of images and that of label maps.
        reduce_zero_label (`bool`): See `SegmentationData`.
        exif_frame (`str`, *optional*): See `SegmentationData`.
        legend (`Legend`, *optional*): See `SegmentationData`.

    Raises:
        FileNotFoundError: If there is no training split.
    """
    if "train" not in pairs:
        raise FileNotFoundError(f"There is no folder {root / 'images' / 'training'}.")
    splits = {split: pair_folders(*pair) for split, pair in pairs.items()}
    return SegmentationData(root.name, splits, tuple(class_names), reduce_zero_label, exif_frame, legend)


def without_unreadable(data: SegmentationData) -> tuple[SegmentationData, list[Source]]:
    """Leave out the samples of which an image cannot be read, and list those images."""
    bad: list[Source] = []
    splits = {}
    for split, samples in data.splits.items():
        kept = []
        for sample in samples:
            broken = [part for part in (sample.image, sample.label_map) if not is_readable(part)]
            bad.extend(broken)
            if not broken:
                kept.append(sample)
        splits[split] = kept
    return replace(data, splits=splits), bad
