"""Transforms: sizes, normalisation and the processor's settings."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessor, ViTImageProcessor
from transformers.image_utils import PILImageResampling

from mona_peft.finetuning.data.classification.transforms import (
    ImageSettings,
    eval_transform,
    evaluation_processor,
    train_transform,
)

SETTINGS = ImageSettings(height=32, width=32, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (20, 20)])
@pytest.mark.parametrize("make", [train_transform, eval_transform])
def test_every_image_ends_at_the_models_size(make, size):
    output = make(SETTINGS)(Image.new("L", size, 255))
    assert output.shape == (3, 32, 32) and output.dtype == torch.float32
    assert output.amax(dim=(1, 2)).tolist() == pytest.approx([1.0, 3.0, 1.0])


def test_eval_keeps_the_centre():
    pixels = np.zeros((64, 128), np.uint8)
    pixels[:, 48:80] = 255
    output = eval_transform(ImageSettings(32, 32, (0,) * 3, (1,) * 3), resize_ratio=1.0)(Image.fromarray(pixels))
    lit = (output[0] > 0.5).float().mean(dim=0)
    assert lit.tolist() == [0.0] * 8 + [1.0] * 16 + [0.0] * 8


def test_resize_ratio_crops_the_border():
    pixels = np.zeros((64, 64), np.uint8)
    pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1] = 255, 255, 255, 255
    settings = ImageSettings(32, 32, (0,) * 3, (1,) * 3)
    assert eval_transform(settings, resize_ratio=1.0)(Image.fromarray(pixels)).max() > 0.3
    assert eval_transform(settings)(Image.fromarray(pixels)).abs().max() < 0.05


def test_non_square_models():
    assert eval_transform(ImageSettings(16, 48))(Image.new("RGB", (50, 50))).shape == (3, 16, 48)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_every_transform_and_the_saved_processor_resize_as_asked(name):
    """By Pillow's own filters."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    settings = ImageSettings(24, 24, (0,) * 3, (1,) * 3)
    resized = image.resize((24, 24), Image.Resampling[name.upper()])
    wanted = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    cropped = train_transform(settings, crop_scale=(1.0, 1.0), horizontal_flip=0.0, interpolation=name)(image)
    for pixels in (eval_transform(settings, 1.0, name)(image), cropped):
        torch.testing.assert_close(pixels, wanted)
    saved = evaluation_processor(settings, 8 / 7, name)
    assert saved.resample == PILImageResampling[name.upper()]


@pytest.mark.parametrize(
    "side, ratio", [(112, 8 / 7), (224, 8 / 7), (224, 1.15), (224, 1.0), (384, 7 / 6), (384, 1.0)]
)
@pytest.mark.parametrize("size", [(144, 90), (150, 100), (91, 91)])
def test_the_saved_processor_gives_what_an_evaluation_sees(side, ratio, size):
    """But for the rounding of the resizing: two of 255 steps at most, on a few values."""
    settings = ImageSettings(side, side, (0,) * 3, (1,) * 3)
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    seen = eval_transform(settings, ratio)(image)
    given = evaluation_processor(settings, ratio)([image], return_tensors="pt")["pixel_values"][0]
    assert (seen - given).abs().max() < 2.5 / 255 and (seen - given).abs().mean() < 0.05 / 255


def test_the_saved_processor_of_a_model_that_is_not_square():
    settings = ImageSettings(16, 48, (0,) * 3, (1,) * 3)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    given = evaluation_processor(settings, 1.25)([image], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(given, eval_transform(settings, 1.25)(image), atol=1.5 / 255, rtol=0)


def test_flip_can_be_turned_off():
    pixels = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    for probability in (0.0, 1.0):
        output = train_transform(SETTINGS, crop_scale=(1.0, 1.0), horizontal_flip=probability)(Image.fromarray(pixels))
        assert (output[0, 16, -1] > output[0, 16, 0]) == (probability == 0.0)


@pytest.mark.parametrize(
    "processor, size",
    [
        (ViTImageProcessor(size={"height": 40, "width": 48}, image_mean=[0.1] * 3, image_std=[0.2] * 3), (40, 48)),
        (ConvNextImageProcessor(size={"shortest_edge": 64}, image_mean=[0.1] * 3, image_std=[0.2] * 3), (64, 64)),
    ],
)
def test_settings_come_from_the_processor(processor, size):
    settings = ImageSettings.from_processor(processor)
    assert (settings.height, settings.width) == size
    assert settings.mean == (0.1,) * 3 and settings.std == (0.2,) * 3
