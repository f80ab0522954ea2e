"""Image classification data: one shape for every source, and its view as training samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from PIL import Image
from torch.utils.data import Dataset


@dataclass(frozen=True)
class ClassificationData:
    """Splits of an image classification data set.

    Args:
        name (`str`): what to call it.
        splits (`Mapping[str, datasets.Dataset]`): `train`, and `validation` or `test` where there are such.
        class_names (`tuple[str, ...]`): by label.
        image_column (`str`): images, as `datasets.Image`.
        label_column (`str`): the label; for multi-label data, one row of 1, 0 and -1 (left out) a sample.
        multilabel (`bool`): whether an image has several labels.
    """

    name: str
    splits: Mapping[str, datasets.Dataset]
    class_names: tuple[str, ...]
    image_column: str = "image"
    label_column: str = "label"
    multilabel: bool = False


class ClassificationImages(Dataset):
    """One split as samples of a transformed image, its label and its index.

    Args:
        split (`datasets.Dataset`): the split.
        data (`ClassificationData`): names the columns.
        transform (`Callable`): from a PIL image to a tensor `(3, H, W)`.
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.split[index]
        return {
            "pixel_values": self.transform(row[self.data.image_column]),
            "labels": torch.as_tensor(row[self.data.label_column]),
            "index": torch.tensor(index),
        }


def stack_samples(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack samples to `pixel_values` `(B, 3, H, W)`, `labels` `(B,)` or `(B, classes)`, and `index` `(B,)`."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
