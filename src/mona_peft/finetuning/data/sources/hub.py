"""Data sets through `datasets`: the Hub, local parquet or webdataset shards, image folders.

Splits and columns are found, or given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import datasets

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.splits import SPLIT_NAMES
from mona_peft.finetuning.environment import looks_like_path
from mona_peft.finetuning.validation import first_line

from .checks import check_shards
from .class_folders import find_class_folders
from .config import SourceConfig

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class", "category", "target")

Split = TypeVar("Split")
Data = TypeVar("Data", ClassificationData, ObjectData, SegmentationData)


def check_source(source: str, known: str) -> None:
    """Check that a data set that is meant to be a folder is there, before it is looked for on the Hub.

    Args:
        source (`str`): What was given.
        known (`str`): What a data set may be, in words.

    Raises:
        ValueError: If it can only be a folder, and there is none.
    """
    if looks_like_path(source) and not Path(source).is_dir():
        found = "is a file, not a folder" if Path(source).exists() else "does not exist"
        raise ValueError(f"The folder {source} {found}. --dataset is {known}.")


def load_splits(
    name_or_path: str, config_name: str | None = None, streaming: bool = False, revision: str | None = None
) -> dict[str, datasets.Dataset | datasets.IterableDataset]:
    """Load every split of a Hub data set, or of a folder of images, parquet files or webdataset shards.

    Args:
        name_or_path (`str`): Id on the Hub, or a folder.
        config_name (`str`, *optional*): Configuration, for data sets with several.
        streaming (`bool`): Read as it goes, without a copy on the disk.
        revision (`str`, *optional*): Branch or commit on the Hub.

    Raises:
        ValueError: If the data set needs code of its own, which `datasets` no longer runs, or one of its files is
            damaged, or a folder has splits without class folders.
    """
    check_source(name_or_path, "a folder, or an id on the Hub")
    files = None
    if Path(name_or_path).is_dir():
        check_shards(Path(name_or_path))
        files = None if config_name else find_class_folders(Path(name_or_path))
    try:
        return dict(
            datasets.load_dataset(name_or_path, config_name, data_files=files, streaming=streaming, revision=revision)
        )
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise ValueError(
            f"The data set {name_or_path} needs to run code of its own ({error}), which `datasets` no longer does. "
            "Use a copy in plain files: often --hub_revision refs/convert/parquet has one; or unpack the official "
            "archives and give their folder with --data_dir."
        ) from error
    except Exception as error:
        # `datasets` wraps whatever its readers raise, and says nothing but that something went wrong.
        if not Path(name_or_path).is_dir():
            raise ValueError(
                f"There is no folder {name_or_path} here, and no data set of that name could be had from the Hub: "
                f"{first_line(error)}"
            ) from error
        raise ValueError(
            f"The folder {name_or_path} cannot be read as a data set: {_innermost(error)}. It should hold folders of "
            "images named by class, or parquet, CSV or tar files; repair or remove the file that is at fault."
        ) from error


def _innermost(error: BaseException) -> str:
    """What went wrong first, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def pick_splits(available: Mapping[str, Split], wanted: Mapping[str, str | None]) -> dict[str, Split]:
    """Splits by role. A split that is named for validation is not found for the test as well, nor the other way round.

    Args:
        available (`Mapping[str, Split]`): Splits, whatever they are, by their own names.
        wanted (`Mapping[str, str | None]`): For each of `train`, `validation` and `test`, the split's own name, or
            `None` to find it by the usual names.

    Raises:
        ValueError: If a split that was named is not there, or there is nothing to train on.
    """
    picked = {}
    evaluated = {name for role, name in wanted.items() if role != "train"}
    for role, name in wanted.items():
        if name is not None and name not in available:
            raise ValueError(f"There is no split {name!r}; there are {', '.join(available)}.")
        taken = set() if role == "train" else evaluated
        found = name or next((each for each in SPLIT_NAMES[role] if each in available and each not in taken), None)
        if found is not None:
            picked[role] = available[found]
    if "train" not in picked and "test" not in picked:
        raise ValueError(f"No split to train on among {', '.join(available)}; name it with --train_split.")
    return picked


def pick_named(data: Data, config: SourceConfig) -> Data:
    """A data set, which has its splits by role, with those that the settings name, where they name any."""
    wanted = config.named_splits()
    return replace(data, splits=pick_splits(data.splits, wanted)) if any(wanted.values()) else data


def find_image_column(features: datasets.Features, given: str | None = None) -> str:
    """Name of the column with the images.

    Raises:
        ValueError: If the given one is missing, or not exactly one can be told.
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
        ValueError: If the given one is missing, or none can be told.
    """
    if given is not None:
        return _present(features, given, "label_column")
    named = [name for name in LABEL_NAMES if name in features]
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = [name for name in named if name in typed] or typed or named
    if not candidates:
        raise ValueError(f"Cannot tell the label column among {', '.join(features)}; name it with --label_column.")
    return candidates[0]


def _present(features: datasets.Features, name: str, setting: str) -> str:
    if name not in features:
        raise ValueError(f"{setting} is {name!r}; the columns are {', '.join(features)}.")
    return name
