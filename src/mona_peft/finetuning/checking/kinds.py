"""How each kind of data set is loaded, read to the end, and drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.dense.targets import training_targets
from mona_peft.finetuning.data.images import IGNORED, Source, open_image, to_rgb
from mona_peft.finetuning.data.sources.classification import load_data
from mona_peft.finetuning.data.sources.config import DataConfig, ObjectDataConfig, SegmentationDataConfig
from mona_peft.finetuning.data.sources.dense import load_objects, load_segmentation
from mona_peft.finetuning.data.sources.hub import load_splits
from mona_peft.finetuning.data.sources.hub_objects import has_objects
from mona_peft.finetuning.data.sources.labelled_files import find_labelled
from mona_peft.finetuning.data.sources.layouts import recognise
from mona_peft.finetuning.data.sources.mask_layouts import MASK_LAYOUTS
from mona_peft.finetuning.data.sources.object_layouts import OBJECT_LAYOUTS
from mona_peft.finetuning.pictures.drawing import draw_label_map, draw_objects

from .config import CheckConfig

#: A sample's problem, and how often each class is in it.
Read = tuple[str | None, Counter[str]]


def load_classes(folder: str, config: CheckConfig, unreadable: list[Source]) -> ClassificationData:
    """Images with labels."""
    return load_data(DataConfig(dataset=folder, **_settings(config, DataConfig)))


def load_boxes(folder: str, config: CheckConfig, unreadable: list[Source]) -> ObjectData:
    """Images with objects."""
    return load_objects(ObjectDataConfig(dataset=folder, **_settings(config, ObjectDataConfig)), unreadable=unreadable)


def load_maps(folder: str, config: CheckConfig, unreadable: list[Source]) -> SegmentationData:
    """Images with label maps."""
    settings = _settings(config, SegmentationDataConfig)
    return load_segmentation(SegmentationDataConfig(dataset=folder, **settings), unreadable=unreadable)


def _settings(config: CheckConfig, kind: type) -> dict[str, Any]:
    known = {entry.name for entry in fields(kind)}
    return {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name in known}


def read_image(data: ClassificationData, split: str, row: int) -> Read:
    """Decode an image whose labels are counted without it."""
    return _problem(lambda: open_image(data.splits[split][row][data.image_column], row)), Counter()


def read_objects(data: ObjectData, split: str, row: int) -> Read:
    """Decode an image and compare its size with the annotated one."""
    return _problem(data.splits[split][row].open), Counter()


def read_map(data: SegmentationData, split: str, row: int) -> Read:
    """Decode an image and its label map, and count the pixels of each class."""
    counts: Counter[str] = Counter()

    def count() -> None:
        _, labels = data.read(data.splits[split][row])
        pixels = np.bincount(labels[labels != IGNORED], minlength=len(data.class_names)).tolist()
        counts.update(dict(zip(data.class_names, pixels, strict=True)))

    return _problem(count), counts


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    return None


def draw_class(data: ClassificationData, split: str, row: int) -> tuple[Image.Image, str]:
    """An image and its labels."""
    entry = data.splits[split][row]
    label = entry[data.label_column]
    numbers = np.flatnonzero(np.asarray(label) == 1).tolist() if data.multilabel else [label]
    return to_rgb(open_image(entry[data.image_column])), ", ".join(data.class_names[number] for number in numbers)


def draw_boxes(data: ObjectData, split: str, row: int) -> tuple[Image.Image, str]:
    """An image with its boxes, and with its masks if it has them."""
    image, entry = data.splits[split][row].load()
    with_masks = bool(entry.annotations) and all(one.get("segmentation") for one in entry.annotations)
    targets = training_targets(entry, data.category_ids, with_masks)
    objects = {"boxes": targets.boxes, "labels": targets.labels}
    if targets.masks is not None:
        objects["masks"] = targets.masks
    names = Counter(data.class_names[label] for label in targets.labels.tolist())
    return draw_objects(image, objects, data.class_names), ", ".join(f"{n} {name}" for name, n in names.items())


def draw_map(data: SegmentationData, split: str, row: int) -> tuple[Image.Image, str]:
    """An image coloured by its label map."""
    image, labels = data.read(data.splits[split][row])
    present = [data.class_names[label] for label in np.unique(labels[labels != IGNORED]).tolist()]
    return draw_label_map(image, labels), ", ".join(present)


@dataclass(frozen=True)
class Kind:
    """One kind of data set.

    Args:
        load (`Callable`): Loads a folder: `load(folder, config, unreadable)`.
        read (`Callable`): Reads a sample to its end: `read(data, split, row)`.
        draw (`Callable`): Draws a sample, and says what is on it.
        counted (`str`): What is counted of each class.
    """

    load: Callable[[str, CheckConfig, list[Source]], Any]
    read: Callable[[Any, str, int], Read]
    draw: Callable[[Any, str, int], tuple[Image.Image, str]]
    counted: str


KINDS = {
    "classification": Kind(load_classes, read_image, draw_class, "images"),
    "detection": Kind(load_boxes, read_objects, draw_boxes, "objects"),
    "segmentation": Kind(load_maps, read_map, draw_map, "pixels"),
}


def count_rows(
    sizes: Mapping[str, int], counts: Mapping[str, Mapping[str, int]], class_names: Sequence[str]
) -> list[list[str]]:
    """Cells of a table: the splits, how many images they have, and a row for each class.

    Args:
        sizes (`Mapping[str, int]`): Images of each split.
        counts (`Mapping`): How often each class is in each split.
        class_names (`Sequence[str]`): By label.
    """
    rows = [["", *sizes], ["images", *map(str, sizes.values())]]
    return rows + [[name, *(str(counts.get(split, {}).get(name, 0)) for split in sizes)] for name in class_names]


def guess_task(folder: Path) -> str:
    """Which task a folder is for, by its layout: a key of `KINDS`."""
    if find_labelled(folder):
        return "classification"
    for task, layouts in (("detection", OBJECT_LAYOUTS), ("segmentation", MASK_LAYOUTS)):
        found = recognise(folder, [layout for layout in layouts if layout.name != "a table"])
        if found is not None:
            return task
    if recognise(folder, OBJECT_LAYOUTS) is None:
        return "classification"
    features = next(iter(load_splits(str(folder)).values())).features
    if has_objects(features):
        return "detection"
    return "segmentation" if len(list(_image_columns(features))) > 1 else "classification"


def _image_columns(features: Mapping[str, object]) -> Iterator[str]:
    return (name for name, feature in features.items() if type(feature).__name__ == "Image")
