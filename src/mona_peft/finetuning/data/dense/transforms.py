"""Transforms of dense prediction with torchvision v2: boxes, masks and label maps go where their image goes.

Each recipe of the paper is a few of these: multi-scale resizing, flips and crops for objects (Swin's detection
recipe); scaling by a random factor, cropping and photometric distortion for label maps (mmsegmentation's ADE20K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers.image_processing_utils import BaseImageProcessor

from mona_peft.finetuning.data.classification.transforms import IMAGENET_MEAN, IMAGENET_STD

from .geometric import PadToSquare, RandomScale, RandomSizeCrop, VariedCrop
from .photometric import HUE_DEGREES, PhotometricDistortion
from .targets import Targets

#: Padded sides are multiples of this: a whole number of patches at every stage of the usual backbones.
PAD_TO = 32


@dataclass(frozen=True)
class DenseSettings:
    """Size of test images, and their normalisation.

    Args:
        short_side (`int`): Pixels of the shorter side, unless the longer one would exceed `long_side`.
        long_side (`int`): Most pixels of the longer side.
        mean (`tuple[float, ...]`): By channel, of values in [0, 1].
        std (`tuple[float, ...]`): By channel, of values in [0, 1].
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def from_processor(cls, processor: Any) -> DenseSettings:
        """Read them from a transformers image processor."""
        size = processor.size
        short = size.get("shortest_edge") or min(size["height"], size["width"])
        long = size.get("longest_edge") or max(short, size.get("height") or 0, size.get("width") or 0)
        return cls(short, long, tuple(processor.image_mean), tuple(processor.image_std))

    def processor(self) -> BaseImageProcessor:
        """A transformers image processor that resizes and normalises in the same way."""
        from transformers import DetrImageProcessor

        size = {"shortest_edge": self.short_side, "longest_edge": self.long_side}
        return DetrImageProcessor(size=size, image_mean=list(self.mean), image_std=list(self.std))

    def normalise(self) -> list[v2.Transform]:
        """Transforms from an image of bytes to a normalised float image."""
        return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]

    def resize(self) -> v2.Transform:
        """Resizing of test images."""
        return RandomScale([self.short_side], self.long_side)


def to_image(image: Image.Image) -> tv_tensors.Image:
    """RGB PIL image to an image `(3, H, W)`, uint8."""
    return tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))


class ObjectTransform:
    """From an image and its objects to what a detector trains on.

    Args:
        steps (`Sequence[v2.Transform]`): Transforms of image, boxes, masks and labels.
        settings (`DenseSettings`): The normalisation.
    """

    def __init__(self, steps: Sequence[v2.Transform], settings: DenseSettings) -> None:
        self.steps = v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=1), *settings.normalise()])

    def __call__(self, image: Image.Image, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the image `(3, H, W)`, and `boxes` `(N, 4)`, `labels` `(N,)` and, if wanted, `masks` `(N, H, W)`."""
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(targets.boxes), format="XYXY", canvas_size=(image.height, image.width)
        )
        sample: dict[str, Tensor] = {"boxes": boxes, "labels": torch.from_numpy(targets.labels)}
        if targets.masks is not None:
            sample["masks"] = tv_tensors.Mask(torch.from_numpy(targets.masks))
        pixels, sample = self.steps(to_image(image), sample)
        if "masks" in sample:
            visible = sample["masks"].as_subclass(Tensor).flatten(1).bool().any(1)
            sample = {name: value[visible] for name, value in sample.items()}
        return pixels.as_subclass(Tensor), {name: value.as_subclass(Tensor) for name, value in sample.items()}


def object_train_transform(
    settings: DenseSettings,
    short_sides: Sequence[int],
    flip: float,
    crop: Sequence[int] = (),
    crop_share: float = 0.5,
    crop_short_sides: Sequence[int] = (),
) -> ObjectTransform:
    """Multi-scale training transform.

    Args:
        settings (`DenseSettings`): Longer side and normalisation.
        short_sides (`Sequence[int]`): One is drawn for each image; those of test images if empty.
        flip (`float`): Probability of mirroring.
        crop (`Sequence[int]`): Least and greatest side of a crop taken before resizing; none if empty.
        crop_share (`float`): Probability of that crop.
        crop_short_sides (`Sequence[int]`): An image to be cropped is first resized to one of these; not if empty.
    """
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(flip)]
    if crop:
        cropping: list[v2.Transform] = [RandomSizeCrop(crop[0], crop[1])]
        if crop_short_sides:
            cropping.insert(0, RandomScale(crop_short_sides, settings.long_side))
        steps.append(v2.RandomApply(cropping, crop_share))
    steps.append(RandomScale(list(short_sides) or [settings.short_side], settings.long_side))
    return ObjectTransform(steps, settings)


class LabelMapTransform:
    """From an image and its label map to what a segmenter trains on.

    Args:
        settings (`DenseSettings`): Frame and normalisation.
        crop (`int`): Side of the training crop, pixels.
        scale (`Sequence[float]`): Least and greatest factor of resizing.
        flip (`float`): Probability of mirroring.
        photometric (`bool`): Whether brightness, contrast, saturation and hue vary.
        hue_degrees (`float`): Most that the hue varies by.
    """

    def __init__(
        self,
        settings: DenseSettings,
        crop: int,
        scale: Sequence[float],
        flip: float,
        photometric: bool,
        hue_degrees: float = HUE_DEGREES,
    ) -> None:
        steps: list[v2.Transform] = [RandomScale([settings.short_side], settings.long_side, scale), VariedCrop(crop)]
        steps.append(v2.RandomHorizontalFlip(flip))
        if photometric:
            steps.append(PhotometricDistortion(hue_degrees=hue_degrees))
        self.steps = v2.Compose([*steps, *settings.normalise(), PadToSquare(crop)])

    def __call__(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Give the image `(3, crop, crop)` and its labels `(crop, crop)`, int64."""
        pixels, cropped = self.steps(to_image(image), tv_tensors.Mask(torch.from_numpy(labels)))
        return pixels.as_subclass(Tensor), cropped.as_subclass(Tensor).long()


def eval_pixels(image: Image.Image, settings: DenseSettings) -> Tensor:
    """A test image, resized and normalised, `(3, H, W)`."""
    return v2.Compose([settings.resize(), *settings.normalise()])(to_image(image)).as_subclass(Tensor)


def round_up(side: int, multiple: int) -> int:
    """The least multiple that is no smaller than a side."""
    return -(-side // multiple) * multiple


def pad_batch(images: Sequence[Tensor], multiple: int = PAD_TO, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pad images `(C, H, W)` at right and bottom to common sides, multiples of `multiple`.

    Returns:
        `tuple[Tensor, Tensor]`: The batch `(B, C, H, W)` and the sizes `(B, 2)` before padding.
    """
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = (round_up(int(side), multiple) for side in sizes.max(0).values)
    batch = images[0].new_full((len(images), images[0].shape[0], height, width), fill)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[-2], : image.shape[-1]] = image
    return batch, sizes
