"""Mixed batches keep the mass of images and labels."""

import pytest
import torch

from mona_peft.finetuning.data.classification.mixing import MixedBatches

SAMPLES = [
    {
        "pixel_values": torch.full((3, 8, 8), float(number)),
        "labels": torch.tensor(number),
        "index": torch.tensor(number),
    }
    for number in range(4)
]


@pytest.mark.parametrize("mixup, cutmix", [(0.5, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_labels_are_the_shares_of_the_images(mixup, cutmix):
    mixed = 0
    for _ in range(10):
        batch = MixedBatches(4, mixup, cutmix)(SAMPLES)
        assert batch["labels"].shape == (4, 4) and batch["pixel_values"].shape == (4, 3, 8, 8)
        assert batch["labels"].sum(1).tolist() == pytest.approx([1.0] * 4)
        # Each image is as bright as its label's number, so its mean tells the shares.
        means = batch["pixel_values"].mean(dim=(1, 2, 3))
        assert means.tolist() == pytest.approx((batch["labels"] @ torch.arange(4.0)).tolist(), abs=1e-5)
        mixed += not torch.equal(batch["labels"], torch.eye(4))
    assert mixed


def test_both_are_used():
    kinds = set()
    for _ in range(40):
        pixels = MixedBatches(4, 1.0, 1.0)(SAMPLES)["pixel_values"]
        kinds.add(bool((pixels == pixels.round()).all()))
    assert kinds == {True, False}  # CutMix leaves whole values, mixup does not
