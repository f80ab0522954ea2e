"""Every image mode ends as RGB, with the right values."""

import io
import os
import struct
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from mona_peft.finetuning.data.classification.transforms import ImageSettings, eval_transform
from mona_peft.finetuning.data.images import (
    UnreadableImage,
    is_readable,
    open_image,
    open_label_map,
    open_turned,
    to_rgb,
)
from mona_peft.finetuning.data.orientation import turn_box, turn_pixels

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


def turned(orientation, mode="RGB"):
    """An image of different pixels that EXIF data turn, as a file has it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40).convert(mode).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_applied_wherever_an_image_comes_from(tmp_path, orientation):
    content = turned(orientation)
    (tmp_path / "a.png").write_bytes(content)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    stored = [{"path": None, "bytes": content}, {"path": str(tmp_path / "a.png"), "bytes": None}, tmp_path / "a.png"]
    for one in (*stored, Image.open(tmp_path / "a.png")):
        image, found = open_turned(one)
        assert found == orientation and np.array_equal(np.asarray(image), expected)
        assert np.array_equal(np.asarray(to_rgb(image)), expected)  # once, not twice
    # A user's own image goes through the transform alone.
    transform = eval_transform(ImageSettings(8, 8), 1.0)
    given, upright = transform(Image.open(tmp_path / "a.png")), transform(Image.fromarray(expected))
    assert (given == upright).all()
    labels, _ = open_label_map({"bytes": turned(orientation, "L")})
    assert np.array_equal(np.asarray(labels), expected[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_pixels_turn_as_pil_turns_images(orientation):
    pixels = np.zeros((5, 7), np.uint8)
    pixels[1:3, 2:6] = 9
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(turn_pixels(pixels, orientation), expected)
    x, y, width, height = turn_box((2, 1, 4, 2), orientation, 7, 5)
    assert (expected[y : y + height, x : x + width] == 9).all() and width * height == (expected == 9).sum()


def test_pipes_devices_and_nothing_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for stored, message in (
        (tmp_path / "pipe.png", r"pipe.png \(row 4\): it is no regular file"),
        ({"path": "/dev/zero", "bytes": None}, r"/dev/zero \(row 4\): it is no regular file"),
        (tmp_path, "no regular file"),
        (tmp_path / "none.png", "No such file"),
        (None, r"embedded image \(row 4\): there is none"),
        ({"path": None, "bytes": None}, "there is none"),
    ):
        with pytest.raises(UnreadableImage, match=message):
            open_image(stored, 4)
    assert not is_readable(tmp_path / "pipe.png")


def test_images_with_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("L", (400, 300)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(UnreadableImage, match=r"big\.png: it has 400 x 300 pixels, more than 100000.*MAX_IMAGE_PIXELS"),
    ):
        open_image(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match=r"big\.png: .*120000 pixels"):
        open_image(tmp_path / "big.png")


def test_whatever_pil_raises_names_the_file(tmp_path, monkeypatch):
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    for error in (ValueError("a"), OSError("b"), SyntaxError("c"), struct.error("d"), OverflowError("e")):
        monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=error))
        for read in (open_image, open_label_map):
            with pytest.raises(UnreadableImage, match=r"a\.png: "):
                read(tmp_path / "a.png")
        assert not is_readable(tmp_path / "a.png")


def test_float_grey_with_missing_values():
    values = np.array([[0.5, np.nan, 1.0]], np.float32)
    assert rgb_values(Image.fromarray(values))[0, :, 0].tolist() == [128, 0, 255]
