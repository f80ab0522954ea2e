"""Data sets through `datasets`: the Hub, local parquet or webdataset shards, image folders.

Columns and class names are found, or given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class", "category", "target")
SPLIT_NAMES = {
    "train": ("train", "training", "trainval"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}


def load_splits(
    name_or_path: str, config_name: str | None = None, streaming: bool = False, revision: str | None = None
) -> dict[str, Any]:
    """Load every split of a Hub data set, or of a folder of images, parquet files or webdataset shards.

    Args:
        name_or_path (`str`): id on the Hub, or a folder.
        config_name (`str`, *optional*): configuration, for data sets with several.
        streaming (`bool`): read as it goes, without a copy on the disk.
        revision (`str`, *optional*): branch or commit on the Hub.

    Raises:
        `ValueError`: if the data set needs code of its own, which `datasets` no longer runs.
    """
    try:
        return dict(datasets.load_dataset(name_or_path, config_name, streaming=streaming, revision=revision))
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise ValueError(
            f"The data set {name_or_path} needs to run code of its own ({error}), which `datasets` no longer does. "
            "Use a copy in plain files: often --hub_revision refs/convert/parquet has one; or unpack the official "
            "archives and give their folder with --data_dir."
        ) from error


def pick_splits(available: Mapping[str, Any], wanted: Mapping[str, str | None]) -> dict[str, Any]:
    """Splits by role.

    Args:
        available (`Mapping[str, Any]`): splits by their own names.
        wanted (`Mapping[str, str | None]`): for each of `train`, `validation` and `test`, the split's own name, or
            `None` to find it by the usual names.

    Raises:
        `ValueError`: if a split that was named is not there, or there is nothing to train on.
    """
    picked = {}
    for role, name in wanted.items():
        if name is not None and name not in available:
            raise ValueError(f"There is no split {name!r}; there are {', '.join(available)}.")
        found = name or next((usual for usual in SPLIT_NAMES[role] if usual in available), None)
        if found is not None:
            picked[role] = available[found]
    if "train" not in picked and "test" not in picked:
        raise ValueError(f"No split to train on among {', '.join(available)}; name it with --train_split.")
    return picked


def find_image_column(features: datasets.Features, given: str | None = None) -> str:
    """Name of the column with the images.

    Raises:
        `ValueError`: if the given one is missing, or not exactly one can be told.
    """
    if given is not None:
        return _present(features, given, "image_column")
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    named = [name for name in IMAGE_NAMES if name in typed]
    candidates = named[:1] or typed
    if len(candidates) != 1:
        raise ValueError(f"Cannot tell the image column among {', '.join(features)}; name it with --image_column.")
    return candidates[0]


def find_label_column(features: datasets.Features, given: str | None = None) -> str:
    """Name of the column with the labels.

    Raises:
        `ValueError`: if the given one is missing, or none can be told.
    """
    if given is not None:
        return _present(features, given, "label_column")
    named = [name for name in LABEL_NAMES if name in features]
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = [name for name in named if name in typed] or typed or named
    if not candidates:
        raise ValueError(f"Cannot tell the label column among {', '.join(features)}; name it with --label_column.")
    return candidates[0]


def class_names_of(split: Any, label_column: str, given: Sequence[str] = ()) -> list[str]:
    """Names of the classes: given, stored with the column, or the sorted values found in it.

    Raises:
        `ValueError`: if they cannot be known without reading a stream to its end.
    """
    feature = split.features[label_column]
    inner = getattr(feature, "feature", feature)
    if given:
        return list(given)
    if isinstance(inner, datasets.ClassLabel):
        return list(inner.names)
    if isinstance(split, datasets.IterableDataset):
        raise ValueError(f"The column {label_column!r} of a stream has no class names; give them with --class_names.")
    values = split[label_column]
    flat = {item for value in values for item in (value if isinstance(value, list) else [value])}
    if all(isinstance(value, int) for value in flat):
        return [str(value) for value in range(max(flat) + 1)]
    return [str(value) for value in sorted(flat)]


def encode_label(value: Any, class_names: Sequence[str]) -> Any:
    """A stored label as a number, or a list of labels as one 1 or 0 a class."""
    if isinstance(value, list):
        numbers = {encode_label(item, class_names) for item in value}
        return [int(number in numbers) for number in range(len(class_names))]
    number = class_names.index(value) if isinstance(value, str) else int(value)
    if not 0 <= number < len(class_names):
        raise ValueError(f"Label {value} is outside the {len(class_names)} classes.")
    return number


def _present(features: datasets.Features, name: str, setting: str) -> str:
    if name not in features:
        raise ValueError(f"{setting} is {name!r}; the columns are {', '.join(features)}.")
    return name
