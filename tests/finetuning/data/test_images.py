"""Every image mode ends as RGB, with the right values."""

import io

import numpy as np
import pytest
from PIL import Image

from mona_peft.finetuning.data.images import to_rgb

GRADIENT = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def rgb_values(image: Image.Image) -> np.ndarray:
    assert to_rgb(image).mode == "RGB"
    return np.asarray(to_rgb(image))


@pytest.mark.parametrize("dtype, factor", [(np.uint8, 1), (np.uint16, 257), (np.int32, 257)])
def test_grey_of_any_depth(dtype, factor):
    image = Image.fromarray(GRADIENT.astype(dtype) * dtype(factor))
    assert (rgb_values(image) == GRADIENT[..., None]).all()


def test_16_bit_png_from_a_file():
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(buffer, format="PNG")
    assert (rgb_values(Image.open(buffer)) == GRADIENT[..., None]).all()


def test_float_grey():
    assert (rgb_values(Image.fromarray(GRADIENT.astype(np.float32) / 255)) == GRADIENT[..., None]).all()


def test_transparent_pixels_turn_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0], pixels[0, :, 3] = 200, (255, 0, 128)
    values = rgb_values(Image.fromarray(pixels, "RGBA"))
    assert values[0, 0].tolist() == [200, 0, 0]
    assert values[0, 1].tolist() == [255, 255, 255]
    assert values[0, 2, 0] == pytest.approx(228, abs=1) and values[0, 2, 1] == pytest.approx(127, abs=1)


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert rgb_values(image).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    image.info["transparency"] = 1
    assert rgb_values(image).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_and_bilevel():
    assert rgb_values(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).tolist() == [[[255, 0, 0]]]
    assert rgb_values(Image.new("1", (1, 1), 1)).tolist() == [[[255, 255, 255]]]
    assert rgb_values(Image.new("LA", (1, 1), (50, 255))).tolist() == [[[50, 50, 50]]]
