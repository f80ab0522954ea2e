"""Heat maps over pictures."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

OPACITY = 0.6


def draw_heat(image: Image.Image, values: Tensor) -> Image.Image:
    """Lay values over a picture as colours, from dark blue for 0 to yellow for the largest; cells keep sharp edges.

    Args:
        image (`PIL.Image.Image`): RGB.
        values (`Tensor`): `(H, W)`, none below 0; the grid covers the whole picture.
    """
    from matplotlib import colormaps

    shares = (values / values.max().clamp_min(1e-12)).clamp(0, 1).numpy()
    colours = Image.fromarray((colormaps["cividis"](shares)[..., :3] * 255).astype(np.uint8))
    return Image.blend(image, colours.resize(image.size, Image.Resampling.NEAREST), OPACITY)


def picture_of(pixels: Tensor, mean: object = None, std: object = None) -> Image.Image:
    """The picture that pixels `(3, H, W)` show once mean and standard deviation of their scaling are taken back.

    Args:
        pixels (`Tensor`): As a model takes them.
        mean (`list[float]`, *optional*): What was subtracted of each channel; without it the pixels' own range is
            stretched over that of the picture.
        std (`list[float]`, *optional*): What each channel was divided by.
    """
    pixels = pixels.float().cpu()
    if mean is None or std is None:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp_min(1e-12)
    else:
        shape = (-1, 1, 1)
        pixels = pixels * torch.tensor(std).reshape(shape) + torch.tensor(mean).reshape(shape)
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
