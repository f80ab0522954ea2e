"""Image transforms of the paper's classification recipes, on the size, mean and standard deviation of a processor.

Training: RandomResizedCrop, horizontal flip. Test: short side to 256/224 of the crop, centre crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from transformers import BitImageProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import PILImageResampling

from mona_peft.finetuning.data.images import to_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: How images are resized: bicubic as the models were pretrained, or bilinear as in the paper's recipes.
INTERPOLATIONS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
#: The same for image processors.
RESAMPLING = {"bicubic": PILImageResampling.BICUBIC, "bilinear": PILImageResampling.BILINEAR}


@dataclass(frozen=True)
class ImageSettings:
    """What a model expects of its images.

    Args:
        height (`int`): Pixels.
        width (`int`): Pixels.
        mean (`tuple[float, ...]`): By channel, of values in [0, 1].
        std (`tuple[float, ...]`): By channel, of values in [0, 1].
    """

    height: int = 224
    width: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def from_processor(cls, processor: Any) -> ImageSettings:
        """Read size, mean and standard deviation from a transformers image processor."""
        timm = getattr(processor, "data_config", None)
        if timm is not None:
            _, height, width = timm["input_size"]
            return cls(height, width, tuple(timm["mean"]), tuple(timm["std"]))
        size = getattr(processor, "crop_size", None) or processor.size
        size = {name: size[name] for name in ("height", "width", "shortest_edge") if name in size and size[name]}
        return cls(
            height=size.get("height") or size["shortest_edge"],
            width=size.get("width") or size["shortest_edge"],
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
        )


def train_transform(
    settings: ImageSettings,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: float = 0.5,
    interpolation: str = "bicubic",
) -> Callable[[Image.Image], torch.Tensor]:
    """Random crop resized to the model's size, random flip.

    Args:
        settings (`ImageSettings`): The model's size, mean and standard deviation.
        crop_scale (`tuple[float, float]`): Least and greatest share of the area that a crop keeps.
        horizontal_flip (`float`): Probability; 0 where mirror images mean something else, as with digits.
        interpolation (`str`): A key of `INTERPOLATIONS`.

    Returns:
        `Callable`: From a PIL image in any mode to a float tensor `(3, H, W)`.
    """
    size = (settings.height, settings.width)
    crop = v2.RandomResizedCrop(size, scale=crop_scale, interpolation=INTERPOLATIONS[interpolation], antialias=True)
    return v2.Compose([to_rgb, crop, v2.RandomHorizontalFlip(horizontal_flip), *_to_tensor(settings)])


def eval_transform(
    settings: ImageSettings, resize_ratio: float = 256 / 224, interpolation: str = "bicubic"
) -> Callable[[Image.Image], torch.Tensor]:
    """Resize so that the centre crop keeps `1 / resize_ratio` of the shorter side, then crop.

    Args:
        settings (`ImageSettings`): The model's size, mean and standard deviation.
        resize_ratio (`float`): Resized side over crop side, 256 / 224 in the paper's recipes; 1 keeps everything.
        interpolation (`str`): A key of `INTERPOLATIONS`.

    Returns:
        `Callable`: From a PIL image in any mode to a float tensor `(3, H, W)`.
    """
    size = (settings.height, settings.width)
    # One number keeps the aspect ratio; two are for models whose input is not square.
    resized = [round(side * resize_ratio) for side in (size if size[0] != size[1] else size[:1])]
    resize = v2.Resize(resized, interpolation=INTERPOLATIONS[interpolation], antialias=True)
    return v2.Compose([to_rgb, resize, partial(_crop_centre, size=size), *_to_tensor(settings)])


def evaluation_processor(
    settings: ImageSettings, resize_ratio: float, interpolation: str = "bicubic"
) -> BaseImageProcessor:
    """An image processor of transformers that prepares images as [`eval_transform`] does, and takes the same settings.

    Values differ by the rounding of the resizing alone: processors resize tensors, [`eval_transform`] Pillow's images.
    """
    height, width = (round(side * resize_ratio) for side in (settings.height, settings.width))
    square = settings.height == settings.width
    return BitImageProcessor(
        size={"shortest_edge": height} if square else {"height": height, "width": width},
        crop_size={"height": settings.height, "width": settings.width},
        resample=RESAMPLING[interpolation],
        image_mean=list(settings.mean),
        image_std=list(settings.std),
    )


def _crop_centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The centre, rounded down as image processors do; torchvision's lies a pixel further for some sizes."""
    top, left = ((side - cropped) // 2 for side, cropped in zip((image.height, image.width), size, strict=True))
    return image.crop((left, top, left + size[1], top + size[0]))


def _to_tensor(settings: ImageSettings) -> list[v2.Transform]:
    """PIL image to a normalised float tensor `(3, H, W)`."""
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(settings.mean, settings.std)]
