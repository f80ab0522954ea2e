"""One way to every source of classification data."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from mona_peft.finetuning.data.classification.dataset import ClassificationData, Rows, arrow_column
from mona_peft.finetuning.data.embedded.digits import load_adaptation_digits

from .checks import check_images, image_folder, skip_bad_images, undecoded
from .config import DataConfig
from .holding_out import split_positions
from .hub import find_image_column, find_label_column, load_splits, pick_named, pick_splits
from .labelled_files import find_labelled, load_labelled
from .labels import encode_labels, find_class_names, unlabelled
from .layouts import say_read
from .presets import PRESETS, Preset, check_sizes, download

#: Labelled scans a class of the digits, where no number is asked for.
DIGITS_SHOTS = 8


def load_data(config: DataConfig, seed: int = 0) -> ClassificationData:
    """Load the data set that `config` names, with undecoded images.

    Args:
        config (`DataConfig`): The source.
        seed (`int`): Draws a validation split, and the scans of the digits.
    """
    if not config.dataset:
        raise ValueError(f"No dataset was given: --dataset {', '.join(PRESETS)}, digits, a Hub id or a folder.")
    preset = PRESETS.get(config.dataset)
    if config.dataset == "digits":
        data = pick_named(_from_digits(config, seed), config)
    elif preset is not None and config.data_dir:
        data = pick_named(_from_archive(preset, config), config)
    else:
        data = _from_datasets(preset, config)
    splits = dict(data.splits)
    for name, split in splits.items():
        if isinstance(split, datasets.Dataset):
            splits[name] = _with_images(split, data, name, config)
    if "validation" not in splits and config.validation_fraction > 0:
        require_training(data)
        splits = _hold_out(data.with_splits(splits), config, seed)
    if config.shots and config.dataset != "digits":
        splits["train"] = draw_shots(require_training(data.with_splits(splits)), config.shots, seed)
    return data.with_splits(splits)


def draw_shots(data: ClassificationData, shots: int, seed: int) -> datasets.Dataset:
    """Draw as many training images of each class; a class that has fewer gives all it has.

    Args:
        data (`ClassificationData`): With a training split.
        shots (`int`): Images a class.
        seed (`int`): Of the draw.

    Raises:
        ValueError: If the images have several labels each, or are a stream.
    """
    train = data.splits["train"]
    if data.multilabel or not isinstance(train, datasets.Dataset):
        found = "its images have several labels each" if data.multilabel else "a stream cannot be drawn from"
        raise ValueError(f"shots={shots} draws images by class from {data.name}, but {found}; leave it out.")
    order = np.random.default_rng(seed).permutation(len(train))
    labels = arrow_column(train, data.label_column).to_numpy(zero_copy_only=False)[order]
    drawn = [order[labels == label][:shots] for label in range(len(data.class_names))]
    return train.select(sorted(np.concatenate(drawn).tolist()))


def require_training(data: ClassificationData) -> ClassificationData:
    """Give back `data` if it can be trained on.

    Raises:
        ValueError: If it has no training split.
    """
    if "train" not in data.splits:
        raise ValueError(
            f"{data.name} has no split to train on, only {', '.join(data.splits)}; name one with --train_split."
        )
    return data


def _from_digits(config: DataConfig, seed: int) -> ClassificationData:
    splits = load_adaptation_digits(shots=config.shots or DIGITS_SHOTS, seed=seed)
    return ClassificationData("digits", splits, tuple(splits["train"].features["label"].names))


def _from_archive(preset: Preset, config: DataConfig) -> ClassificationData:
    """A preset from the official layout on disk."""
    folder = Path(config.data_dir)  # type: ignore[arg-type]
    if config.download:
        folder = download(preset, folder)
    multilabel = preset.multilabel and config.voc_labels == "multi"
    files, names = preset.read_archive(folder, multilabel) if preset.multilabel else preset.read_archive(folder)
    check_sizes(preset, {split: len(part.paths) for split, part in files.items()})
    splits = {split: part.to_dataset(names, multilabel) for split, part in files.items()}
    return ClassificationData(preset.name, splits, tuple(names), multilabel=multilabel)


def _from_datasets(preset: Preset | None, config: DataConfig) -> ClassificationData:
    """Anything that `datasets` reads."""
    source = config.hub_id or (preset.hub_id if preset else config.dataset)
    if source is None:
        assert preset is not None
        raise ValueError(
            f"{preset.name} has no usual place on the Hub: give --data_dir (official archives) or --hub_id."
        )
    found = find_labelled(Path(source)) if config.hub_id is None else {}
    if found:
        return _from_files(source, found, config)
    wanted = config.named_splits()
    splits = pick_splits(load_splits(source, config.hub_config, revision=config.hub_revision), wanted)
    if config.streaming and "train" in splits:
        streams = load_splits(source, config.hub_config, streaming=True, revision=config.hub_revision)
        splits["train"] = pick_splits(streams, wanted)["train"]
    role, first = next(iter(splits.items()))
    image = find_image_column(first.features, config.image_column)
    label = find_label_column(first.features, config.label_column)
    splits = _labelled(splits, label, source)
    names = find_class_names(first, label, config.class_names, f"{source} {role}")
    data = _encoded(source, splits, names, image, label, config)
    if preset is not None and not config.streaming:
        check_sizes(preset, {split: len(rows) for split, rows in data.splits.items()})
    if Path(source).is_dir():
        say_read(source, _kind_of(Path(source)), data.splits, names, "images")
    return data


def _from_files(source: str, found: dict[str, Path], config: DataConfig) -> ClassificationData:
    """CSV or JSON-lines files of paths and labels.

    Raises:
        ValueError: If they are to be streamed.
    """
    if config.streaming:
        raise ValueError(f"{source} is a list of files, which is not streamed; leave streaming out.")
    columns = (config.image_column, config.label_column)
    splits, names = load_labelled(found, *columns, config.class_names, allow_missing=config.skip_bad_images)
    data = pick_named(_encoded(source, splits, names, "image", "label", config), config)
    listed = ", ".join(str(file.relative_to(Path(source).parent)) for file in found.values())
    say_read(source, f"paths and labels of {listed}", data.splits, names, "images")
    return data


def _kind_of(folder: Path) -> str:
    """What a folder that `datasets` reads holds."""
    kinds = {".parquet": "parquet files", ".tar": "tar shards"}
    found = {kinds[path.suffix] for path in folder.rglob("*") if path.suffix in kinds}
    return " and ".join(sorted(found)) or "a folder a class"


def _encoded(
    source: str, splits: dict[str, Rows], names: list[str], image: str, label: str, config: DataConfig
) -> ClassificationData:
    """The splits with their labels as numbers, or as rows of 1 and 0."""
    first = next(iter(splits.values()))
    multilabel = hasattr(first.features[label], "feature")
    encoded = {}
    for split, rows in splits.items():
        kept = rows.select_columns([image, label])
        kept = kept if label == "label" else kept.rename_column(label, "label")
        is_stream = not isinstance(rows, datasets.Dataset)
        encode = partial(_encode_stream, image=image, config=config) if is_stream else _encode
        encoded[split] = encode(kept, names, multilabel, f"{source} {split}")
    return ClassificationData(config.dataset or source, encoded, tuple(names), image, "label", multilabel)


def _labelled(splits: dict[str, Rows], label: str, source: str) -> dict[str, Rows]:
    """The splits without those that have no labels at all, such as the test splits of competitions."""
    labelled = {}
    for split, rows in splits.items():
        whole = split != "train" and isinstance(rows, datasets.Dataset)
        if whole and (label not in rows.features or (len(rows) and unlabelled(rows, label))):
            warnings.warn(f"No row of {source} {split} has a label: the split is left out.", stacklevel=2)
        else:
            labelled[split] = rows
    return labelled


def _encode(split: datasets.Dataset, names: list[str], multilabel: bool, name: str) -> datasets.Dataset:
    """The label as a number, or as a row of 1 and 0."""
    labels = encode_labels(arrow_column(split, "label"), names, name)
    column = list(labels) if multilabel else labels
    feature = _label_feature(names, multilabel)
    return split.remove_columns("label").add_column("label", column, feature=feature)


def _encode_stream(
    stream: datasets.IterableDataset, names: list[str], multilabel: bool, name: str, image: str, config: DataConfig
) -> datasets.IterableDataset:
    """The same for a stream, whose rows are checked as they come."""
    inside = image_folder(_local_folder(config))

    def encode_row(row: dict[str, Any], number: int) -> dict[str, object]:
        stored = row[image]
        if stored and stored["bytes"] is None and "://" not in stored["path"]:
            inside.file(os.path.abspath(stored["path"]), f"Row {number} of {name}")
        return {"label": encode_labels(pa.array([row["label"]]), names, name, number)[0].tolist()}

    feature = datasets.Image(decode=False)
    features = datasets.Features({image: feature, "label": _label_feature(names, multilabel)})
    return stream.cast_column(image, feature).map(encode_row, with_indices=True, features=features)


def _label_feature(names: list[str], multilabel: bool) -> datasets.Sequence | datasets.ClassLabel:
    return datasets.Sequence(datasets.Value("int8")) if multilabel else datasets.ClassLabel(names=names)


def _local_folder(config: DataConfig) -> Path | None:
    """The data set's folder, if it is on this machine."""
    sources = (config.data_dir, config.hub_id, config.dataset)
    found = next((Path(source) for source in sources if source and Path(source).exists()), None)
    return found.parent if found is not None and found.is_file() else found


def _hold_out(data: ClassificationData, config: DataConfig, seed: int) -> dict[str, datasets.Dataset]:
    """The splits with a share of the training split of each class cut off to validate on.

    Raises:
        ValueError: If a share of a stream was asked for.
    """
    train = data.splits["train"]
    if not isinstance(train, datasets.Dataset):
        raise ValueError("validation_fraction needs the whole training split; a stream cannot be cut.")
    labels = np.zeros(len(train), int) if data.multilabel else np.asarray(train[data.label_column])
    kept, held = split_positions(labels, config.validation_fraction, seed)
    return {**data.splits, "train": train.select(kept), "validation": train.select(held)}


def _with_images(split: datasets.Dataset, data: ClassificationData, role: str, config: DataConfig) -> datasets.Dataset:
    """The split undecoded, its images checked, or without unreadable ones, which are counted and listed."""
    split, name = undecoded(split, data.image_column), f"{data.name} {role}"
    if config.skip_bad_images:
        split = skip_bad_images(split, data.image_column, name)
    check_images(split, data.image_column, name, _local_folder(config))
    return split
