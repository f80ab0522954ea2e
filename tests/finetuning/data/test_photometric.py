"""Photometric distortion against mmsegmentation's steps written out pixel by pixel with Python's own `colorsys`."""

import colorsys

import pytest
import torch
from torchvision import tv_tensors

from mona_peft.finetuning.data.dense.photometric import PhotometricDistortion, distort, hsv_to_rgb, rgb_to_hsv

#: 8-bit steps: mmsegmentation rounds after each of up to four; the float image does not.
DRAWS = 400


def clip(value):
    return min(max(value, 0.0), 1.0)


def by_hand(pixel, brightness, contrast, contrast_last, saturation, hue):
    """Brightness, contrast (unless it is last), saturation, hue, contrast (if it is last)."""
    pixel = [clip(value + brightness) for value in pixel]
    if not contrast_last:
        pixel = [clip(value * contrast) for value in pixel]
    turned, strength, value = colorsys.rgb_to_hsv(*pixel)
    pixel = list(colorsys.hsv_to_rgb((turned + hue) % 1, clip(strength * saturation), value))
    return [clip(value * contrast) for value in pixel] if contrast_last else pixel


def pixels(seed=0):
    torch.manual_seed(seed)
    image = torch.rand(3, 8, 9)
    image[:, 0] = image[:1, 0]  # greys, black and white have no hue
    image[:, 0, :2] = torch.tensor([0.0, 1.0])
    return image


@pytest.mark.parametrize("contrast_last", [False, True])
@pytest.mark.parametrize("change", [(0.1, 1.4, 0.6, 0.09), (-0.12, 0.5, 1.5, -0.1), (0.0, 1.5, 1.0, 0.0)])
def test_the_steps_are_those_of_mmsegmentation(change, contrast_last):
    brightness, contrast, saturation, hue = change
    image = pixels()
    found = distort(image, brightness, contrast, contrast_last, saturation, hue)
    for row in range(8):
        for column in range(9):
            pixel = image[:, row, column].tolist()
            expected = by_hand(pixel, brightness, contrast, contrast_last, saturation, hue)
            assert found[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_place_of_contrast_matters():
    """So the test above tells the two orders apart: what is clipped first stays clipped."""
    first, last = (distort(pixels(), 0.12, 1.5, last, 0.5, 0.05) for last in (False, True))
    assert (first - last).abs().max() > 0.05


def test_hue_saturation_and_value_there_and_back():
    image = pixels(1)
    assert torch.allclose(hsv_to_rgb(*rgb_to_hsv(image)), image, atol=1e-6)


def test_ranges_and_chances():
    """Brightness 32 of 255, contrast and saturation 0.5 to 1.5, hue 18 of OpenCV's 180 steps, each half the time."""
    torch.manual_seed(0)
    transform = PhotometricDistortion()
    drawn = [transform.make_params([]) for _ in range(DRAWS)]
    limits = {"brightness": (-32 / 255, 32 / 255, 0), "contrast": (0.5, 1.5, 1), "saturation": (0.5, 1.5, 1)}
    for name, (low, high, otherwise) in {**limits, "hue": (-18 / 180, 18 / 180, 0)}.items():
        values = torch.tensor([params[name] for params in drawn])
        changed = values[values != otherwise]
        assert 0.4 < len(changed) / DRAWS < 0.6
        assert low <= changed.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < changed.max() <= high
    assert 0.4 < sum(params["contrast_last"] for params in drawn) / DRAWS < 0.6
    # The steps are drawn apart.
    changed = torch.tensor(
        [[p["brightness"] != 0, p["contrast"] != 1, p["saturation"] != 1, p["hue"] != 0] for p in drawn]
    )
    assert len(changed.unique(dim=0)) == 16


def test_channels_keep_their_order():
    """A permutation would turn red into another colour; without a turn of the hue, red stays the greatest channel."""
    red = tv_tensors.Image(torch.tensor([200, 120, 60], dtype=torch.uint8)[:, None, None].expand(3, 2, 2).contiguous())
    grey = tv_tensors.Image(torch.full((3, 2, 2), 90, dtype=torch.uint8))
    torch.manual_seed(0)
    straight, turning = PhotometricDistortion(hue_degrees=0.0), PhotometricDistortion()
    for _ in range(100):
        found = straight(red)[:, 0, 0].tolist()
        assert found[0] >= found[1] >= found[2]
        assert turning(grey).std(dim=0).max() < 1e-6  # whatever is drawn, grey stays grey


def test_labels_pass_and_the_generator_decides():
    image = tv_tensors.Image((pixels() * 255).to(torch.uint8))
    labels = tv_tensors.Mask(torch.arange(72).view(8, 9))
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found, kept = PhotometricDistortion()(image, labels)
        assert torch.equal(kept, labels) and found.dtype == torch.float32 and isinstance(found, tv_tensors.Image)
        results.append(found)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
