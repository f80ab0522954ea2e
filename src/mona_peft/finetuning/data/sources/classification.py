"""One way to every source of classification data."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.decoding import skip_bad_images, undecoded
from mona_peft.finetuning.data.embedded.digits import load_adaptation_digits
from mona_peft.finetuning.settings import Settings, option

from .hub import class_names_of, encode_label, find_image_column, find_label_column, load_splits, pick_splits
from .presets import PRESETS, Preset, check_sizes, download


@dataclass
class DataConfig(Settings):
    """Where the images come from."""

    dataset: str | None = option(
        None, f"{', '.join(PRESETS)}, digits, an id on the Hub, or a folder of images, parquet files or tar shards."
    )
    data_dir: str | None = option(None, "Folder with the official archives of a preset, unpacked.")
    download: bool = option(False, "Download the official archives of a preset into data_dir with torchvision.")
    hub_id: str | None = option(None, "Take a preset from this data set on the Hub instead of its usual one.")
    hub_config: str | None = option(None, "Configuration of the data set on the Hub.")
    hub_revision: str | None = option(None, "Branch or commit of the data set on the Hub.")
    image_column: str | None = option(None, "Column of the images; found if unset.")
    label_column: str | None = option(None, "Column of the labels; found if unset.")
    class_names: list[str] = option([], "Names of the classes, where the data has none.")
    train_split: str | None = option(None, "Name of the training split; found if unset.")
    validation_split: str | None = option(None, "Name of the validation split; found if unset.")
    test_split: str | None = option(None, "Name of the test split; found if unset.")
    validation_fraction: float = option(
        0.0, "Share of the training split to validate on, where there is no such split.", least=0, below=1
    )
    voc_labels: str = option(
        "multi",
        "VOC2007: multi (20 labels an image) or single (largest object not difficult).",
        choices=("multi", "single"),
    )
    shots: int = option(8, "Labelled scans a class of the digits.", least=1)
    streaming: bool = option(False, "Read the training split as a stream, sharded by process.")
    shuffle_buffer: int = option(1000, "Samples among which a stream is shuffled.", least=1)
    skip_bad_images: bool = option(False, "Leave out images that cannot be read, after trying all of them.")

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        super().__post_init__()
        if self.download and not self.data_dir:
            raise ValueError("--download needs --data_dir, where the archives go.")


def load_data(config: DataConfig, seed: int = 0) -> ClassificationData:
    """Load the data set that `config` names, with undecoded images.

    Args:
        config (`DataConfig`): the source.
        seed (`int`): draws a validation split, and the scans of the digits.
    """
    if not config.dataset:
        raise ValueError(f"No dataset was given: --dataset {', '.join(PRESETS)}, digits, a Hub id or a folder.")
    preset = PRESETS.get(config.dataset)
    if config.dataset == "digits":
        data = _from_digits(config, seed)
    elif preset is not None and config.data_dir:
        data = _from_archive(preset, config)
    else:
        data = _from_datasets(preset, config)
    splits = dict(data.splits)
    if "validation" not in splits and config.validation_fraction > 0:
        splits["train"], splits["validation"] = _hold_out(splits["train"], config.validation_fraction, seed)
    for name, split in splits.items():
        if isinstance(split, datasets.Dataset):
            splits[name] = _readable(undecoded(split, data.image_column), data, name, config.skip_bad_images)
    return data.with_splits(splits)


def _from_digits(config: DataConfig, seed: int) -> ClassificationData:
    splits = load_adaptation_digits(shots=config.shots, seed=seed)
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
    wanted = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}
    splits = pick_splits(load_splits(source, config.hub_config, revision=config.hub_revision), wanted)
    if config.streaming:
        streams = load_splits(source, config.hub_config, streaming=True, revision=config.hub_revision)
        splits["train"] = pick_splits(streams, wanted)["train"]
    first = next(iter(splits.values()))
    image = find_image_column(first.features, config.image_column)
    label = find_label_column(first.features, config.label_column)
    names = class_names_of(first, label, config.class_names)
    multilabel = hasattr(first.features[label], "feature")
    encoded = {split: _encode(rows, image, label, names) for split, rows in splits.items()}
    if preset is not None and not config.streaming:
        check_sizes(preset, {split: len(rows) for split, rows in encoded.items()})
    return ClassificationData(config.dataset or source, encoded, tuple(names), image, "label", multilabel)


def _encode(split: Any, image: str, label: str, names: list[str]) -> Any:
    """Keep the image, and the label as a number (or a row of 1 and 0) in the column `label`."""
    split = split.select_columns([image, label])
    if label != "label":
        split = split.rename_column(label, "label")
    feature = split.features["label"] if split.features else None
    if isinstance(feature, datasets.ClassLabel):
        return split
    undecoded_split = split.cast_column(image, datasets.Image(decode=False))
    return undecoded_split.map(lambda row: {"label": encode_label(row["label"], names)})


def _hold_out(split: datasets.Dataset, fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Cut a share off a split, at random."""
    if not isinstance(split, datasets.Dataset):
        raise ValueError("validation_fraction needs the whole training split; a stream cannot be cut.")
    order = np.random.default_rng(seed).permutation(len(split)).tolist()
    size = max(1, round(fraction * len(split)))
    return split.select(sorted(order[size:])), split.select(sorted(order[:size]))


def _readable(split: datasets.Dataset, data: ClassificationData, name: str, skip: bool) -> datasets.Dataset:
    """The split as it is, or without unreadable images, which are counted and listed."""
    if not skip:
        return split
    split, problems = skip_bad_images(split, data.image_column, f"{data.name} {name}")
    if problems:
        listed = "\n  ".join(problems)
        warnings.warn(f"Left out {len(problems)} images of {data.name} {name}:\n  {listed}", stacklevel=2)
    return split
