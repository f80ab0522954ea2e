"""ADE20K scene parsing (150 classes) from its official folders or the Hub, and the embedded scenes in its layout.

`ADEChallengeData2016/{images,annotations}/{training,validation}`; the names are in `objectInfo150.txt` there.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path

import datasets

from mona_peft.finetuning.data.dense.segmentation import LabelledImage, SegmentationData, find_pairs, load_folders
from mona_peft.finetuning.data.embedded.scenes import SEMANTIC_NAMES, SceneImage, SceneSettings

from .checks import check_images, undecoded
from .hub import load_splits, pick_splits
from .sizes import OFFICIAL_SIZES
from .stored_rows import stored_images

NUM_CLASSES = 150
#: What a column of label maps is usually called.
LABEL_COLUMNS = (
    *("annotation", "annotations", "label", "labels", "mask", "masks", "segmentation_mask", "semantic_segmentation"),
    *("segmentation", "label_map", "semantic_mask"),
)


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
    data = load_folders(root, ade20k_names(root), find_split_folders(root, wanted), True, exif_frame)
    for split, size in OFFICIAL_SIZES["ade20k"].items():
        found = len(data.splits.get(split, ()))
        if found != size:
            warnings.warn(f"{root} has {found} {split} images; the complete set has {size}.", stacklevel=2)
    return data


def find_split_folders(root: Path, wanted: Mapping[str, str | None] | None = None) -> dict[str, tuple[Path, Path]]:
    """By role, a split's folder of images and that of its label maps.

    Args:
        root (`Path`): The data set.
        wanted (`Mapping[str, str]`, *optional*): Names of splits by role, `None` for the usual names.

    Raises:
        ValueError: If a split that was named is not there, or none can be told to be for training.
        FileNotFoundError: If there are no splits at all.
    """
    pairs = find_pairs(root)
    if not pairs:
        raise FileNotFoundError(f"There is no folder {root / 'images' / 'training'}.")
    return pick_splits(pairs, wanted or dict.fromkeys(("train", "validation", "test")))


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
    image_column: str | None = None,
    label_column: str | None = None,
    exif_frame: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
) -> SegmentationData:
    """Load a data set of the Hub (or a folder that `datasets` reads) with image and label map columns.

    Args:
        name (`str`): Its id.
        class_names (`tuple[str, ...]`): By label.
        reduce_zero_label (`bool`): Whether 0 means "no class", as in ADE20K.
        image_column (`str`, *optional*): Images; found if left out.
        label_column (`str`, *optional*): Label maps, as images; found if left out.
        exif_frame (`str`, *optional*): See `SegmentationData`.
        config_name (`str`, *optional*): Configuration, for data sets with several.
        revision (`str`, *optional*): Branch or commit on the Hub.

    Raises:
        ValueError: If a column is missing, or a row has no image.
    """
    loaded = load_splits(name, config_name, revision=revision)
    folder = Path(name) if Path(name).is_dir() else None
    splits = {}
    for split, rows in loaded.items():
        label = _label_column(rows, label_column, name)
        image = image_column or next(
            (one for one in ("image", "img", "pixel_values") if one in rows.features), "image"
        )
        if image not in rows.features:
            raise ValueError(f"{name} has no column {image!r}; it has {rows.column_names}. Name it: --image_column.")
        for column in (image, label):
            check_images(undecoded(rows, column), column, f"{name} {split}", folder)
        columns = (stored_images(rows, column) for column in (image, label))
        splits[str(split)] = [LabelledImage(*pair) for pair in zip(*columns, strict=True)]
    return SegmentationData(name, splits, class_names, reduce_zero_label, exif_frame)


def _label_column(rows: datasets.Dataset, given: str | None, name: str) -> str:
    """The column of label maps."""
    usual = [one for one in LABEL_COLUMNS if isinstance(rows.features.get(one), datasets.Image)]
    found = given or next(iter(usual), None)
    if found is None or found not in rows.features:
        raise ValueError(
            f"{name} has no column {found or LABEL_COLUMNS[0]!r} of label maps; it has {rows.column_names}. Name it: "
            "--label_column."
        )
    return found


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
