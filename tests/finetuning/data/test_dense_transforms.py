import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from mona_peft.finetuning.data.dense.targets import Targets
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


def test_padding_is_the_mean_colour():
    """mmsegmentation pads after normalising, with zeros; and photometric distortion never sees the padding."""
    image, targets = scene()
    settings = DenseSettings(20, 40, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    transform = LabelMapTransform(settings, crop=48, scale=(1.0, 1.0), flip=0.0, photometric=True)
    for seed in range(5):
        torch.manual_seed(seed)
        pixels, cropped = transform(image, targets.masks[0].astype(np.int64))
        assert (pixels[:, 20:] == 0).all() and (pixels[:, :, 30:] == 0).all()
        assert (cropped[20:] == 255).all() and (cropped[:, 30:] == 255).all() and (cropped[:20, :30] != 255).all()


def noting(seen, transform):
    """A transform that notes how it resizes or crops images."""

    def noted(inpt, params):
        if isinstance(inpt, tv_tensors.Image) and {"size", "top"} & params.keys():
            seen.append(params)
        return transform(inpt, params)

    return noted


def test_an_image_is_resized_before_and_after_its_crop():
    """The second policy of the COCO recipe: a short side of 400, 500 or 600, a crop of 384 to 600, and a resize."""
    settings = DenseSettings(800, 1333, (0.0,) * 3, (1.0,) * 3)
    sides = range(480, 801, 32)
    nothing = Targets(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    image = Image.new("RGB", (640, 427))
    shapes, ratios = set(), []
    for seed in range(60):
        torch.manual_seed(seed)
        transform = object_train_transform(
            settings, sides, flip=0.0, crop=(384, 600), crop_share=1.0, crop_short_sides=[400, 500, 600]
        )
        seen = []
        for step in transform.steps.transforms:
            for part in getattr(step, "transforms", [step]):
                part.transform = noting(seen, part.transform)
        pixels, _ = transform(image, nothing)
        first, crop, last = seen
        assert first["size"] in ([400, 600], [500, 749], [600, 899])
        for name, side in zip(("height", "width"), first["size"], strict=True):
            assert min(384, side) <= crop[name] <= 600
        assert min(last["size"]) in sides or max(last["size"]) == 1333
        assert list(pixels.shape[-2:]) == last["size"]
        shapes.add(tuple(first["size"]))
        ratios.append(crop["width"] / crop["height"])
    assert len(shapes) == 3 and max(ratios) > 1.2 and min(ratios) < 0.9
    # Without the crop there is one resize alone.
    plain = object_train_transform(settings, [480], 0.0, (384, 600), crop_share=0.0, crop_short_sides=[400])
    assert plain(image, nothing)[0].shape[-2:] == (480, 719)


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


def test_a_test_image_moves_no_generator():
    before = torch.get_rng_state()
    eval_pixels(Image.new("RGB", (20, 30)), DenseSettings(16, 32))
    assert torch.equal(torch.get_rng_state(), before)
