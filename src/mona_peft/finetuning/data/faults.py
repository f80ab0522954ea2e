"""What is doubtful about a data set: what `mona-peft data check` lists, and training warns of."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from mona_peft.finetuning.data.classification.dataset import ClassificationData, arrow_column
from mona_peft.finetuning.data.dense.boxes import box_fault
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.sources.config import NAMED_SETS
from mona_peft.finetuning.data.sources.stored_rows import HubImage
from mona_peft.finetuning.environment import is_first_process

from .contents import shared_images
from .data_set import DataSet, sources_of
from .images import Source

#: What each fault of a box means.
BOX_FAULTS = {
    "outside": "lie outside their image and do not count",
    "empty": "have no area and do not count",
    "over": "reach over the edge of their image and are cut",
}
EXAMPLES = 3
#: Of how many images training reads the bytes at most, to find some that are in two splits.
MOST_READ = 10_000
#: Of how many label maps training counts the pixels of each class before it starts; with more, the check alone does.
MOST_COUNTED = 1_000


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or doubtful.

    Args:
        text (`str`): What, and where, in one line.
        refused (`bool`): Whether training refuses it; if not, it warns.
    """

    text: str
    refused: bool = False


def find_faults(
    data: DataSet, counts: Mapping[str, Mapping[str, int]] | None = None, most_read: int | None = None
) -> list[Finding]:
    """What can be told without decoding an image.

    Args:
        data (`DataSet`): The data set.
        counts (`Mapping`, *optional*): How often each class is in each split; counted if left out and that is cheap.
        most_read (`int`, *optional*): See [`duplicates`].
    """
    counts = count_classes(data, MOST_COUNTED) if counts is None else counts
    found = class_faults(counts, data.class_names)
    if isinstance(data, ObjectData):
        found += [finding for split in data.splits for finding in box_faults(data, split)]
    return found + duplicates(data, most_read)


def warn_of_faults(data: DataSet, dataset: str | None) -> None:
    """Warn of each of [`find_faults`], in one process of a run.

    Args:
        data (`DataSet`): The data set.
        dataset (`str`, *optional*): As it was asked for; of one that goes by name, nothing is looked for.
    """
    if dataset in NAMED_SETS or not is_first_process():
        return
    for finding in find_faults(data, most_read=MOST_READ):
        warnings.warn(f"{data.name}: {finding.text}", stacklevel=2)


def count_classes(data: DataSet, most_maps: int = 0) -> dict[str, Counter[str]]:
    """How many labels, objects or pixels of each class are in each split.

    Args:
        data (`DataSet`): The data set.
        most_maps (`int`): Of how many label maps at most the pixels are counted; of more, nothing is.
    """
    if isinstance(data, ObjectData):
        return {
            split: Counter(data.categories[a["category_id"]] for image in images for a in image.annotations)
            for split, images in data.splits.items()
        }
    if isinstance(data, SegmentationData):
        few = sum(len(samples) for samples in data.splits.values()) <= most_maps
        pixels = {split: data.pixels(split).sum(0).tolist() for split in (data.splits if few else ())}
        return {split: Counter(dict(zip(data.class_names, found, strict=True))) for split, found in pixels.items()}
    if not isinstance(data, ClassificationData):
        return {}
    counts = {}
    for split, rows in data.splits.items():
        if isinstance(rows, datasets.Dataset):
            labels = np.array(arrow_column(rows, data.label_column).to_pylist(), int)
            per_class = (
                (labels == 1).sum(0) if data.multilabel else np.bincount(labels, minlength=len(data.class_names))
            )
            counts[split] = Counter(dict(zip(data.class_names, per_class.tolist(), strict=True)))
    return counts


def class_faults(counts: Mapping[str, Mapping[str, int]], class_names: Sequence[str]) -> list[Finding]:
    """Classes of which there is nothing to learn from, or nothing to measure.

    Args:
        counts (`Mapping[str, Mapping[str, int]]`): How often each class is in each split.
        class_names (`Sequence[str]`): By label.
    """
    if "train" not in counts:
        return []
    present = {split: {name for name in class_names if found.get(name)} for split, found in counts.items()}
    trained = present.pop("train")
    elsewhere = set().union(*present.values()) if present else set()
    found = []
    empty = [name for name in class_names if name not in trained | elsewhere]
    if empty:
        found.append(Finding(f"{_classes(empty)} nothing in any split."))
    for split, names in present.items():
        only_here = [name for name in class_names if name in names - trained]
        if only_here:
            found.append(Finding(f"{_classes(only_here)} nothing in train but something in {split}."))
        unmeasured = [name for name in class_names if name in trained - names]
        if unmeasured:
            found.append(Finding(f"{_classes(unmeasured)} something in train but nothing in {split}."))
    return found


def box_faults(data: ObjectData, split: str) -> list[Finding]:
    """Boxes that are not where their image is.

    Args:
        data (`ObjectData`): The data set.
        split (`str`): Of it.
    """
    faulty: dict[str, list[str]] = {fault: [] for fault in BOX_FAULTS}
    total = 0
    for image in data.splits[split]:
        for annotation in image.annotations:
            total += 1
            fault = box_fault(annotation["bbox"], image.width, image.height)
            if fault is not None:
                box = [round(value, 1) for value in annotation["bbox"]]
                faulty[fault].append(f"{box} on {image.source} of {image.width}x{image.height}")
    return [
        Finding(f"{len(where)} of {total} boxes of {split} {BOX_FAULTS[fault]}: {_some(where)}.")
        for fault, where in faulty.items()
        if where
    ]


def duplicates(data: DataSet, most_read: int | None = None) -> list[Finding]:
    """Images to train on that are there to validate or test on too, byte by byte.

    Args:
        data (`DataSet`): The data set.
        most_read (`int`, *optional*): How many images of one length are read at most; all if left out.
    """
    if "train" not in data.splits:
        return []
    train = sources_of(data, "train")
    found = []
    for split in data.splits:
        pairs = shared_images(train, sources_of(data, split), most_read) if split != "train" else []
        if pairs:
            listed = _some([f"{_place(one)} and {_place(other)}" for one, other in pairs[: EXAMPLES + 1]])
            found.append(Finding(f"{len(pairs)} images of {split} are in train as well: {listed}."))
    return found


def _place(source: Source) -> str:
    """Where an image is: its file, or its row in a table."""
    path = source().get("path") if isinstance(source, HubImage) else None
    return str(path or source)


def _classes(names: Sequence[str]) -> str:
    """The classes, and a verb for how many there are."""
    return f"The class {names[0]} has" if len(names) == 1 else f"The classes {_some(list(names), 8)} have"


def _some(items: Sequence[str], most: int = EXAMPLES) -> str:
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")
