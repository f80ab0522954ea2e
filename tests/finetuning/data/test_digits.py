"""The embedded digits: disjoint pools and splits, the same for a seed."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mona_peft.finetuning.data.embedded.digits import load_adaptation_digits, load_pretraining_digits


def contents(split) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in split["image"]]


def test_pools_hold_every_scan_of_their_digits():
    pretraining = load_pretraining_digits(validation_per_class=20)
    assert (len(pretraining["train"]), len(pretraining["validation"])) == (801, 100)
    assert pretraining["train"].features["label"].names == list("01234")
    labels = np.asarray(pretraining["train"]["label"])
    target = load_digits().target
    assert np.bincount(labels).tolist() == [(target == digit).sum() - 20 for digit in range(5)]


def test_adaptation_splits_are_disjoint_and_balanced():
    splits = load_adaptation_digits(shots=8, seed=3)
    assert {name: len(split) for name, split in splits.items()} == {"test": 600, "validation": 100, "train": 40}
    assert splits["train"].features["label"].names == list("56789")
    for split in splits.values():
        assert len(set(np.bincount(split["label"]))) == 1
    everything = [image for split in splits.values() for image in contents(split)]
    assert len(set(everything)) == len(everything)


def test_seed_draws_the_training_scans_alone():
    first, again, other = (load_adaptation_digits(seed=seed) for seed in (0, 0, 1))
    assert contents(first["train"]) == contents(again["train"])
    assert contents(first["train"]) != contents(other["train"])
    for split in ("validation", "test"):
        assert contents(first[split]) == contents(other[split])


def test_labels_match_the_scans():
    scans = load_digits()
    by_content = {
        (image * (255 / 16)).astype(np.uint8).tobytes(): target
        for image, target in zip(scans.images, scans.target, strict=True)
    }
    split = load_adaptation_digits()["train"]
    assert [by_content[content] - 5 for content in contents(split)] == list(split["label"])


def test_too_many_shots_are_refused():
    with pytest.raises(ValueError, match=r"Digit 5 has 182 scans, 340 were asked for"):
        load_adaptation_digits(shots=200)
