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
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from mona_peft.finetuning.data.classification.transforms import IMAGENET_MEAN, IMAGENET_STD
from mona_peft.finetuning.data.images import IGNORED

from .objects import Targets

CROP_TRIES = 10


@dataclass(frozen=True)
class DenseSettings:
    """Size of test images, and their normalisation.

    Args:
        short_side (`int`): pixels of the shorter side, unless the longer one would exceed `long_side`.
        long_side (`int`): most pixels of the longer side.
        mean (`tuple[float, ...]`): by channel, of values in [0, 1].
        std (`tuple[float, ...]`): by channel, of values in [0, 1].
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

    def processor(self) -> Any:
        """A transformers image processor that resizes and normalises in the same way."""
        from transformers import DetrImageProcessor

        size = {"shortest_edge": self.short_side, "longest_edge": self.long_side}
        return DetrImageProcessor(size=size, image_mean=list(self.mean), image_std=list(self.std))

    def normalise(self) -> list[v2.Transform]:
        """Transforms from an image of bytes to a normalised float image."""
        return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]

    def resize(self) -> v2.Transform:
        """Resizing of test images."""
        return RandomScale(self.short_side, self.long_side, (1.0, 1.0))


def to_image(image: Image.Image) -> tv_tensors.Image:
    """RGB PIL image to an image `(3, H, W)`, uint8."""
    return tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))


class RandomSizeCrop(v2.Transform):
    """Crop a random part whose sides are each between two sizes (or the image's own, where that is less).

    Args:
        low (`int`): least side, pixels.
        high (`int`): greatest side, pixels.
        probability (`float`): of cropping at all.
    """

    def __init__(self, low: int, high: int, probability: float) -> None:
        super().__init__()
        self.low, self.high, self.probability = low, high, probability

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the crop, or none."""
        height, width = TF.get_size(flat_inputs[0])
        if torch.rand(()) >= self.probability:
            return {"top": 0, "left": 0, "height": height, "width": width}
        crop = [_between(min(self.low, side), min(self.high, side)) for side in (height, width)]
        top, left = _between(0, height - crop[0]), _between(0, width - crop[1])
        return {"top": top, "left": left, "height": crop[0], "width": crop[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop one input."""
        return self._call_kernel(TF.crop, inpt, **params)


class RandomScale(v2.Transform):
    """Resize to fit into a frame times a random factor, keeping the ratio of the sides.

    Args:
        short_side (`int`): shorter side of the frame, pixels.
        long_side (`int`): longer side of the frame, pixels.
        factors (`Sequence[float]`): least and greatest factor.
    """

    def __init__(self, short_side: int, long_side: int, factors: Sequence[float]) -> None:
        super().__init__()
        self.short_side, self.long_side, self.factors = short_side, long_side, factors

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor."""
        height, width = TF.get_size(flat_inputs[0])
        low, high = self.factors
        factor = low + (high - low) * float(torch.rand(())) if high > low else low
        scale = factor * min(self.short_side / min(height, width), self.long_side / max(height, width))
        return {"size": [max(1, round(height * scale)), max(1, round(width * scale))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one input; label maps by the nearest pixel."""
        nearest = isinstance(inpt, tv_tensors.Mask)
        mode = InterpolationMode.NEAREST if nearest else InterpolationMode.BILINEAR
        return self._call_kernel(TF.resize, inpt, size=params["size"], interpolation=mode, antialias=True)


class VariedCrop(v2.Transform):
    """Cut a square in which no class has more than a share of the pixels, padding where the image is too small.

    Args:
        side (`int`): pixels.
        most (`float`): greatest share of one class; after some tries any crop is taken.
    """

    def __init__(self, side: int, most: float = 0.75) -> None:
        super().__init__()
        self.side, self.most = side, most

    def forward(self, image: tv_tensors.Image, labels: tv_tensors.Mask) -> tuple[Tensor, Tensor]:
        """Crop both in the same way."""
        height, width = image.shape[-2:]
        padding = [0, 0, max(0, self.side - width), max(0, self.side - height)]
        image, labels = TF.pad(image, padding), TF.pad(labels, padding, fill=IGNORED)
        height, width = image.shape[-2:]
        for _ in range(CROP_TRIES):
            window = [_between(0, height - self.side), _between(0, width - self.side), self.side, self.side]
            cropped = TF.crop(labels, *window)
            counts = cropped[cropped != IGNORED].unique(return_counts=True)[1]
            if len(counts) > 1 and counts.max() < self.most * counts.sum():
                break
        return TF.crop(image, *window), cropped


def _between(low: int, high: int) -> int:
    """A random whole number from low to high, both included, from torch's global generator."""
    return int(torch.randint(low, high + 1, ()))


class ObjectTransform:
    """From an image and its objects to what a detector trains on.

    Args:
        steps (`Sequence[v2.Transform]`): transforms of image, boxes, masks and labels.
        settings (`DenseSettings`): the normalisation.
    """

    def __init__(self, steps: Sequence[v2.Transform], settings: DenseSettings) -> None:
        self.steps = v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=1), *settings.normalise()])

    def __call__(self, image: Image.Image, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the image `(3, H, W)`, and `boxes` `(N, 4)`, `labels` `(N,)` and, if wanted, `masks` `(N, H, W)`."""
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(targets.boxes), format="XYXY", canvas_size=(image.height, image.width)
        )
        sample: dict[str, Any] = {"boxes": boxes, "labels": torch.from_numpy(targets.labels)}
        if targets.masks is not None:
            sample["masks"] = tv_tensors.Mask(torch.from_numpy(targets.masks))
        pixels, sample = self.steps(to_image(image), sample)
        if "masks" in sample:
            visible = sample["masks"].as_subclass(Tensor).flatten(1).bool().any(1)
            sample = {name: value[visible] for name, value in sample.items()}
        return pixels.as_subclass(Tensor), {name: value.as_subclass(Tensor) for name, value in sample.items()}


def object_train_transform(
    settings: DenseSettings, short_sides: Sequence[int], flip: float, crop: Sequence[int] = (), crop_share: float = 0.5
) -> ObjectTransform:
    """Multi-scale training transform.

    Args:
        settings (`DenseSettings`): longer side and normalisation.
        short_sides (`Sequence[int]`): one is drawn for each image; those of test images if empty.
        flip (`float`): probability of mirroring.
        crop (`Sequence[int]`): least and greatest side of a crop taken before resizing; none if empty.
        crop_share (`float`): probability of that crop.
    """
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(flip)]
    if crop:
        steps.append(RandomSizeCrop(crop[0], crop[1], crop_share))
    steps.append(v2.RandomShortestSize(list(short_sides) or [settings.short_side], max_size=settings.long_side))
    return ObjectTransform(steps, settings)


class LabelMapTransform:
    """From an image and its label map to what a segmenter trains on.

    Args:
        settings (`DenseSettings`): frame and normalisation.
        crop (`int`): side of the training crop, pixels.
        scale (`Sequence[float]`): least and greatest factor of resizing.
        flip (`float`): probability of mirroring.
        photometric (`bool`): whether brightness, contrast, saturation and hue vary.
    """

    def __init__(
        self, settings: DenseSettings, crop: int, scale: Sequence[float], flip: float, photometric: bool
    ) -> None:
        steps: list[Any] = [RandomScale(settings.short_side, settings.long_side, scale), VariedCrop(crop)]
        steps.append(v2.RandomHorizontalFlip(flip))
        if photometric:
            steps.append(v2.RandomPhotometricDistort())
        self.steps = v2.Compose([*steps, *settings.normalise()])

    def __call__(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Give the image `(3, crop, crop)` and its labels `(crop, crop)`, int64."""
        pixels, cropped = self.steps(to_image(image), tv_tensors.Mask(torch.from_numpy(labels)))
        return pixels.as_subclass(Tensor), cropped.as_subclass(Tensor).long()


def eval_pixels(image: Image.Image, settings: DenseSettings) -> Tensor:
    """A test image, resized and normalised, `(3, H, W)`."""
    return v2.Compose([settings.resize(), *settings.normalise()])(to_image(image)).as_subclass(Tensor)


def pad_batch(images: Sequence[Tensor], multiple: int = 32, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pad images `(C, H, W)` at right and bottom to common sides, multiples of `multiple`.

    Returns:
        `tuple[Tensor, Tensor]`: the batch `(B, C, H, W)` and the sizes `(B, 2)` before padding.
    """
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = (-(-int(side) // multiple) * multiple for side in sizes.max(0).values)
    batch = images[0].new_full((len(images), images[0].shape[0], height, width), fill)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[-2], : image.shape[-1]] = image
    return batch, sizes
