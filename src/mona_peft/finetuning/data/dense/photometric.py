"""Photometric distortion of training images as mmsegmentation has it, which leaves the order of the channels alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from . import HUE_DEGREES


class PhotometricDistortion(v2.Transform):
    """Vary brightness, contrast, saturation and hue, in this order or with contrast last, each with probability 0.5.

    Gives a float image in [0, 1]; every step is clipped to that. Label maps, masks and boxes pass.

    Args:
        brightness (`float`): Most that is added to every value, of 1.
        contrast (`Sequence[float]`): Least and greatest factor of every value.
        saturation (`Sequence[float]`): Least and greatest factor of the saturation.
        hue_degrees (`float`): Most degrees that the hue is turned by.
    """

    def __init__(
        self,
        brightness: float = 32 / 255,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue_degrees: float = HUE_DEGREES,
    ) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast, self.saturation = contrast, saturation
        self.hue_degrees = hue_degrees

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw each change; a step that is left out changes nothing."""
        turn = self.hue_degrees / 360
        return {
            "brightness": _half_the_time((-self.brightness, self.brightness), 0.0),
            "contrast": _half_the_time(self.contrast, 1.0),
            "contrast_last": bool(torch.rand(()) < 0.5),
            "saturation": _half_the_time(self.saturation, 1.0),
            "hue": _half_the_time((-turn, turn), 0.0),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort an image `(3, H, W)`."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = TF.to_dtype(inpt, torch.float32, scale=True).as_subclass(Tensor)
        return tv_tensors.wrap(distort(image, **params), like=inpt)


def _half_the_time(limits: Sequence[float], otherwise: float) -> float:
    """With probability 0.5 a number between two limits, from torch's global generator."""
    low, high = limits
    drawn = low + (high - low) * float(torch.rand(()))
    return drawn if torch.rand(()) < 0.5 else otherwise


def distort(
    image: Tensor, brightness: float, contrast: float, contrast_last: bool, saturation: float, hue: float
) -> Tensor:
    """Apply the steps to an image `(3, H, W)` in [0, 1].

    Args:
        image (`Tensor`): RGB.
        brightness (`float`): What is added.
        contrast (`float`): What is multiplied, after the brightness or at the end.
        contrast_last (`bool`): Which of the two.
        saturation (`float`): Factor of the saturation.
        hue (`float`): Part of a turn.
    """
    image = (image + brightness).clamp(0, 1)
    if not contrast_last:
        image = (image * contrast).clamp(0, 1)
    if saturation != 1 or hue != 0:
        turned, strength, value = rgb_to_hsv(image)
        image = hsv_to_rgb((turned + hue) % 1, (strength * saturation).clamp(0, 1), value)
    return (image * contrast).clamp(0, 1) if contrast_last else image


def rgb_to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue as part of a turn, saturation and value `(H, W)`, all in [0, 1], of an RGB image `(3, H, W)` in [0, 1]."""
    red, green, blue = image
    value, brightest = image.max(0)
    chroma = value - image.min(0).values
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe])
    hue = sixths.gather(0, brightest[None])[0] / 6 % 1
    return hue, chroma / torch.where(value > 0, value, 1), value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The inverse of [`rgb_to_hsv`]."""
    channels = []
    for offset in (5, 3, 1):
        place = (offset + hue * 6) % 6
        channels.append(value - value * saturation * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels)
