"""Any stored image to 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

# Colour put behind transparent pixels.
BACKGROUND = (255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Give back `image` as 8-bit RGB.

    Transparency is laid on white; palettes are resolved; grey, 16-bit and 32-bit grey, CMYK and bilevel images are
    converted. PIL alone clips 16-bit values at 255 instead of scaling them.

    Args:
        image (`PIL.Image.Image`): an image in any mode.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _scale_to_8_bit(image)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale a grey image of 16 bits (or wider integers, taken as 16-bit) or of floats in [0, 1] to 8 bits.

    Floats above 1 are taken as 0 to 255 already.
    """
    values = np.asarray(image)
    if image.mode == "F":
        values = values * 255 if values.max(initial=0) <= 1 else values
    elif image.mode == "I" and values.max(initial=0) <= 255:
        pass
    else:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
