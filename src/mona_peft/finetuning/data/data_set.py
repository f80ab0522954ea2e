"""A data set of any kind: its images, and what tells it from another without reading them."""

from __future__ import annotations

from collections.abc import Sequence

import datasets

from mona_peft.finetuning.data.classification.dataset import ClassificationData
from mona_peft.finetuning.data.dense.objects import ObjectData
from mona_peft.finetuning.data.dense.segmentation import SegmentationData
from mona_peft.finetuning.data.sources.stored_rows import stored_images

from .images import Source

#: A data set of any kind.
DataSet = ClassificationData | ObjectData | SegmentationData


def sources_of(data: DataSet, split: str) -> Sequence[Source]:
    """The images of a split; of a stream, none.

    Args:
        data (`DataSet`): The data set.
        split (`str`): A split that it has.
    """
    if isinstance(data, ClassificationData):
        rows = data.splits[split]
        return stored_images(rows, data.image_column) if isinstance(rows, datasets.Dataset) else []
    if isinstance(data, ObjectData):
        return [one.source for one in data.splits[split]]
    return [one.image for one in data.splits[split]]


def describe_data(data: DataSet) -> dict[str, object]:
    """What a run records of its data set, as JSON values: it only resumes on the same.

    Args:
        data (`DataSet`): The data set.
    """
    sizes = {split: len(rows) for split, rows in data.splits.items() if hasattr(rows, "__len__")}
    described: dict[str, object] = {
        "dataset": data.name,
        "class_names": list(data.class_names),
        "split_sizes": sizes,
        "data_fingerprint": data.fingerprint(),
    }
    if isinstance(data, ObjectData):
        described["annotation_fingerprint"] = data.annotation_fingerprint()
    elif isinstance(data, SegmentationData):
        described["exif_frame"] = data.exif_frame
    return described
