"""Crops, resizing and padding of training images, their boxes, masks and label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from mona_peft.finetuning.data.images import IGNORED

CROP_TRIES = 10


class RandomSizeCrop(v2.Transform):
    """Crop a random part whose sides are each between two sizes (or the image's own, where that is less).

    Args:
        low (`int`): Least side, pixels.
        high (`int`): Greatest side, pixels.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, object]:
        """Draw the crop."""
        height, width = TF.get_size(flat_inputs[0])
        crop = [_between(min(self.low, side), min(self.high, side)) for side in (height, width)]
        top, left = _between(0, height - crop[0]), _between(0, width - crop[1])
        return {"top": top, "left": left, "height": crop[0], "width": crop[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop one input."""
        return self._call_kernel(TF.crop, inpt, **params)


class RandomScale(v2.Transform):
    """Resize to fit into a frame times a random factor, keeping the ratio of the sides.

    Args:
        short_sides (`Sequence[int]`): Shorter side of the frame, pixels; one is drawn for each image.
        long_side (`int`): Longer side of the frame, pixels.
        factors (`Sequence[float]`): Least and greatest factor.
    """

    def __init__(self, short_sides: Sequence[int], long_side: int, factors: Sequence[float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.short_sides, self.long_side, self.factors = short_sides, long_side, factors

    def make_params(self, flat_inputs: list[Any]) -> dict[str, object]:
        """Draw the frame and the factor."""
        height, width = TF.get_size(flat_inputs[0])
        low, high = self.factors
        # An evaluation, whose size is given, draws nothing: it leaves the generator to training.
        varies = len(self.short_sides) > 1 or high > low
        short_side = self.short_sides[_between(0, len(self.short_sides) - 1) if varies else 0]
        factor = low + (high - low) * float(torch.rand(())) if high > low else low
        scale = factor * min(short_side / min(height, width), self.long_side / max(height, width))
        return {"size": [max(1, round(height * scale)), max(1, round(width * scale))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one input; label maps by the nearest pixel."""
        nearest = isinstance(inpt, tv_tensors.Mask)
        mode = InterpolationMode.NEAREST if nearest else InterpolationMode.BILINEAR
        return self._call_kernel(TF.resize, inpt, size=params["size"], interpolation=mode, antialias=True)


class VariedCrop(v2.Transform):
    """Cut a square in which no class has more than a share of the pixels, smaller where the image is too small.

    Args:
        side (`int`): Pixels.
        most (`float`): Greatest share of one class; after some tries any crop is taken.
    """

    def __init__(self, side: int, most: float = 0.75) -> None:
        super().__init__()
        self.side, self.most = side, most

    def forward(self, image: tv_tensors.Image, labels: tv_tensors.Mask) -> tuple[Tensor, Tensor]:
        """Crop both in the same way."""
        height, width = image.shape[-2:]
        size = [min(self.side, height), min(self.side, width)]
        for _ in range(CROP_TRIES):
            window = [_between(0, height - size[0]), _between(0, width - size[1]), *size]
            cropped = TF.crop(labels, *window)
            counts = cropped[cropped != IGNORED].unique(return_counts=True)[1]
            if len(counts) > 1 and counts.max() < self.most * counts.sum():
                break
        return TF.crop(image, *window), cropped


class PadToSquare(v2.Transform):
    """Pad at right and bottom to a square: normalised images with zeros, the mean colour, and labels as left out.

    Args:
        side (`int`): Pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: tv_tensors.Image, labels: tv_tensors.Mask) -> tuple[Tensor, Tensor]:
        """Pad both in the same way."""
        height, width = image.shape[-2:]
        padding = [0, 0, self.side - width, self.side - height]
        return TF.pad(image, padding), TF.pad(labels, padding, fill=IGNORED)


def _between(low: int, high: int) -> int:
    """A random whole number from low to high, both included, from torch's global generator."""
    return int(torch.randint(low, high + 1, ()))
