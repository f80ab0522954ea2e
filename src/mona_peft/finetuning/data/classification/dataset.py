"""Image classification data: one shape for every source, and its view as training samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from mona_peft.finetuning.data.fingerprint import digest
from mona_peft.finetuning.data.images import open_image

#: A split: rows in a table, or a stream of them.
Rows: TypeAlias = "datasets.Dataset | datasets.IterableDataset"


def arrow_column(split: datasets.Dataset, name: str) -> pa.Array:
    """A column as it is stored, without decoding its images."""
    column = split.select_columns([name]).with_format("arrow")[:][name]
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


@dataclass(frozen=True)
class ClassificationData:
    """Splits of an image classification data set.

    Args:
        name (`str`): What to call it.
        splits (`Mapping[str, Rows]`): `datasets.Dataset`s, or streams: `train`, and `validation` or `test` where there
            are such.
        class_names (`tuple[str, ...]`): By label.
        image_column (`str`): Images, as `datasets.Image`.
        label_column (`str`): The label; for multi-label data, one row of 1, 0 and -1 (left out) a sample.
        multilabel (`bool`): Whether an image has several labels.
    """

    name: str
    splits: Mapping[str, Rows]
    class_names: tuple[str, ...]
    image_column: str = "image"
    label_column: str = "label"
    multilabel: bool = False

    def fingerprint(self) -> str:
        """Hash of the class names, and of every image's label, file name and, where it is stored in a table, length.

        The pictures themselves are not read; of a stream, nothing is.
        """
        parts: list[object] = [self.class_names, self.multilabel]
        for name, split in sorted(self.splits.items()):
            parts += [name, *self._parts(split)]
        return digest(parts)

    def _parts(self, split: Rows) -> list[object]:
        if not isinstance(split, datasets.Dataset):
            return [type(split).__name__]
        labels, images = (arrow_column(split, column) for column in (self.label_column, self.image_column))
        names, lengths = [], []
        if pa.types.is_struct(images.type):
            names = [path and Path(path).name for path in pc.struct_field(images, "path").to_pylist()]
            lengths = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
        return [len(split), labels.to_pylist(), names, lengths]

    def with_splits(self, splits: Mapping[str, Rows]) -> ClassificationData:
        """The same data set with other splits."""
        return replace(self, splits=splits)


class ClassificationImages(Dataset):
    """One split as samples of a transformed image, its label and its index.

    Args:
        split (`datasets.Dataset`): The split.
        data (`ClassificationData`): Names the columns.
        transform (`Callable`): From a PIL image to a tensor `(3, H, W)`.
    """

    def __init__(
        self,
        split: datasets.Dataset,
        data: ClassificationData,
        transform: Callable[[Image.Image], torch.Tensor],
    ) -> None:
        self.split = split
        self.data = data
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return to_sample(self.split[index], index, self.data, self.transform)


class ClassificationStream(IterableDataset):
    """A stream as samples like those of [`ClassificationImages`]; their index counts along the stream.

    Args:
        stream (`datasets.IterableDataset`): The split.
        data (`ClassificationData`): Names the columns.
        transform (`Callable`): From a PIL image to a tensor `(3, H, W)`.
        shuffle_buffer (`int`): Samples among which it is shuffled.
        seed (`int`): Of the run.
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        data: ClassificationData,
        transform: Callable[[Image.Image], torch.Tensor],
        shuffle_buffer: int,
        seed: int,
    ) -> None:
        undecoded = stream.cast_column(data.image_column, datasets.Image(decode=False))
        self.stream = undecoded.shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.data = data
        self.transform = transform

    def shard(self, process: int, processes: int) -> None:
        """Keep the part of one of several processes."""
        self.stream = split_dataset_by_node(self.stream, process, processes)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for an epoch."""
        self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index, row in enumerate(self.stream):
            yield to_sample(row, index, self.data, self.transform)


def to_sample(
    row: dict[str, Any], index: int, data: ClassificationData, transform: Callable[[Image.Image], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A stored row as `pixel_values` `(3, H, W)`, `labels` and `index`."""
    return {
        "pixel_values": transform(open_image(row[data.image_column], index)),
        "labels": torch.as_tensor(row[data.label_column]),
        "index": torch.tensor(index),
    }


def stack_samples(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack samples to `pixel_values` `(B, 3, H, W)`, `labels` `(B,)` or `(B, classes)`, and `index` `(B,)`."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
