"""ADE20K scene parsing (150 classes) from its official folders or the Hub, and the embedded scenes in its layout.

`ADEChallengeData2016/{images,annotations}/{training,validation}`; the names are in `objectInfo150.txt` there.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mona_peft.finetuning.data.dense.segmentation import LabelledImage, SegmentationData, load_folders
from mona_peft.finetuning.data.embedded.scenes import SEMANTIC_NAMES, SceneImage, SceneSettings

from .hub import load_splits, pick_splits
from .sizes import OFFICIAL_SIZES

NUM_CLASSES = 150


def load_ade20k(
    root: Path, exif_frame: str | None = None, wanted: Mapping[str, str | None] | None = None
) -> SegmentationData:
    """Load ADE20K from the folder of the official archive, or the one that holds it.

    Warns if a split is not complete.

    Args:
        root (`Path`): The folder.
        exif_frame (`str`, *optional*): See `SegmentationData`.
        wanted (`Mapping`, *optional*): See `find_split_folders`.

    Raises:
        FileNotFoundError: If the training split is missing.
    """
    root = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    data = load_folders(root, ade20k_names(root), True, exif_frame, find_split_folders(root, wanted))
    for split, size in OFFICIAL_SIZES["ade20k"].items():
        found = len(data.splits.get(split, ()))
        if found != size:
            warnings.warn(f"{root} has {found} {split} images; the complete set has {size}.", stacklevel=2)
    return data


def find_split_folders(root: Path, wanted: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """By role, the folder of `root/images` that holds a split.

    Args:
        root (`Path`): The data set.
        wanted (`Mapping[str, str]`, *optional*): Names of folders by role, `None` for the usual names.

    Raises:
        ValueError: If a folder that was named is not there, or none can be told to be for training.
        FileNotFoundError: If there are no folders at all.
    """
    images = root / "images"
    if not images.is_dir():
        raise FileNotFoundError(f"There is no folder {images / 'training'}.")
    folders = {folder.name: folder.name for folder in sorted(images.iterdir()) if folder.is_dir()}
    return pick_splits(folders, wanted or dict.fromkeys(("train", "validation", "test")))


def ade20k_names(root: Path) -> tuple[str, ...]:
    """Class names of `objectInfo150.txt` (the first of its synonyms); numbers where the file is missing."""
    file = root / "objectInfo150.txt"
    if not file.exists():
        return tuple(f"class {number}" for number in range(1, NUM_CLASSES + 1))
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines(), delimiter="\t")
    return tuple(row["Name"].split(",")[0].strip() for row in rows)


def load_hub_segmentation(
    name: str,
    class_names: tuple[str, ...],
    reduce_zero_label: bool,
    image_column: str = "image",
    label_column: str = "annotation",
    exif_frame: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
) -> SegmentationData:
    """Load a data set of the Hub (or a folder that `datasets` reads) with image and label map columns.

    Args:
        name (`str`): Its id.
        class_names (`tuple[str, ...]`): By label.
        reduce_zero_label (`bool`): Whether 0 means "no class", as in ADE20K.
        image_column (`str`): Images.
        label_column (`str`): Label maps, as images.
        exif_frame (`str`, *optional*): See `SegmentationData`.
        config_name (`str`, *optional*): Configuration, for data sets with several.
        revision (`str`, *optional*): Branch or commit on the Hub.

    Raises:
        ValueError: If a column is missing.
    """
    import datasets

    loaded = load_splits(name, config_name, revision=revision)
    splits = {}
    for split, rows in loaded.items():
        missing = {image_column, label_column} - set(rows.column_names)
        if missing:
            raise ValueError(f"{name} has no columns {sorted(missing)}; it has {rows.column_names}. Name them.")
        columns = []
        for column in (image_column, label_column):
            stored = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            columns.append([HubImage(stored, column, row) for row in range(len(rows))])
        splits[str(split)] = [LabelledImage(*pair) for pair in zip(*columns, strict=True)]
    return SegmentationData(name, splits, class_names, reduce_zero_label, exif_frame)


@dataclass(frozen=True)
class HubImage:
    """A stored image in a table.

    Args:
        rows (`datasets.Dataset`): The table, its images undecoded.
        column (`str`): Of the image.
        row (`int`): Of the image.
    """

    rows: Any
    column: str
    row: int

    def __call__(self) -> dict[str, Any]:
        """Its path and bytes."""
        return self.rows[self.row][self.column]

    def __str__(self) -> str:
        return f"{self.column} of row {self.row}"


def scene_segmentation(sizes: dict[str, int], settings: SceneSettings | None = None) -> SegmentationData:
    """Embedded scenes with semantic labels; the digits' blurred rims are left out.

    Args:
        sizes (`dict[str, int]`): Number of scenes of each split.
        settings (`SceneSettings`, *optional*): What scenes look like.
    """
    settings = settings or SceneSettings()
    splits = {
        split: [
            LabelledImage(SceneImage(split, i, settings), SceneImage(split, i, settings, "semantic"))
            for i in range(size)
        ]
        for split, size in sizes.items()
    }
    return SegmentationData("scenes", splits, SEMANTIC_NAMES)
