import numpy as np
import pytest
import torch
from PIL import Image

from mona_peft.finetuning.data.dense.objects import Targets
from mona_peft.finetuning.data.dense.transforms import (
    DenseSettings,
    LabelMapTransform,
    eval_pixels,
    object_train_transform,
    pad_batch,
)

PLAIN = DenseSettings(32, 64, (0.0,) * 3, (1.0,) * 3)


def scene():
    """A white rectangle on black: image, box and mask say the same."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 20:50] = 255
    mask = (pixels[..., 0] > 0).astype(np.uint8)
    return Image.fromarray(pixels), Targets(np.array([[20, 10, 50, 30]], np.float32), np.array([2]), mask[None])


def test_boxes_and_masks_go_with_the_image():
    transform = object_train_transform(PLAIN, [24, 32, 40], flip=0.5, crop=(20, 40), crop_share=0.7)
    sizes, mirrored = set(), 0
    for seed in range(40):
        torch.manual_seed(seed)
        image, targets = transform(*scene())
        sizes.add(min(image.shape[-2:]))
        if not len(targets["boxes"]):
            continue
        white, mask = image[0] > 0.5, targets["masks"][0].bool()
        # They differ by interpolation alone: at most a pixel along the four sides.
        assert (white != mask).sum() <= 2 * (mask.any(0).sum() + mask.any(1).sum())
        rows, columns = torch.where(white)
        tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (targets["boxes"][0] - tight).abs().max() <= 2
        # The rectangle is nearer to the right side, unless it is mirrored.
        mirrored += bool(columns.float().mean() < image.shape[-1] / 2)
    assert len(sizes) > 2 and 5 < mirrored < 35


def test_the_longer_side_has_a_limit():
    image = Image.new("RGB", (200, 20))
    assert eval_pixels(image, PLAIN).shape == (3, 6, 64)
    assert eval_pixels(Image.new("RGB", (80, 64)), PLAIN).shape == (3, 32, 40)


def test_an_image_without_objects_stays_one():
    transform = object_train_transform(PLAIN, [32], flip=0.5)
    nothing = Targets(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 40, 60), np.uint8))
    image, targets = transform(scene()[0], nothing)
    assert image.shape[-2:] == targets["masks"].shape[-2:]
    assert targets["boxes"].shape == (0, 4) and targets["labels"].shape == (0,)


def test_label_maps_go_with_the_image_and_padding_is_left_out():
    image, targets = scene()
    labels = targets.masks[0].astype(np.int64)
    transform = LabelMapTransform(PLAIN, crop=48, scale=(0.5, 2.0), flip=0.5, photometric=False)
    padded = 0
    for seed in range(20):
        torch.manual_seed(seed)
        pixels, cropped = transform(image, labels)
        assert pixels.shape == (3, 48, 48) and cropped.shape == (48, 48) and cropped.dtype == torch.int64
        counted = cropped != 255
        padded += bool((~counted).any())
        assert ((pixels[0] > 0.5).long() != cropped)[counted].float().mean() < 0.06
        assert (pixels[:, ~counted] == 0).all()
    assert padded


def test_photometric_distortion_leaves_the_labels():
    image, targets = scene()
    labels = targets.masks[0].astype(np.int64)
    torch.manual_seed(0)
    transform = LabelMapTransform(PLAIN, crop=32, scale=(1.0, 1.0), flip=0.0, photometric=True)
    drawn = [transform(image, labels) for _ in range(8)]
    assert len({float(pixels.sum()) for pixels, _ in drawn}) > 1
    assert {value for _, cropped in drawn for value in cropped.unique().tolist()} <= {0, 1, 255}


def test_padding_a_batch():
    batch, sizes = pad_batch([torch.ones(3, 10, 40), torch.ones(3, 33, 20)])
    assert batch.shape == (2, 3, 64, 64) and sizes.tolist() == [[10, 40], [33, 20]]
    assert batch[0].sum() == 3 * 10 * 40 and batch[1, :, :33, :20].all()


def test_settings_come_back_from_their_processor():
    settings = DenseSettings(48, 96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    processor = settings.processor()
    assert DenseSettings.from_processor(processor) == settings
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    ours = eval_pixels(image, settings)
    theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() == pytest.approx(0, abs=0.02)
