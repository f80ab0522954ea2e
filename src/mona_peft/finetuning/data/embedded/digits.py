"""Real scanned digits without a download: scikit-learn's copy of the UCI optical recognition test set (1797 scans).

The ten classes are cut in two disjoint pools, so that a small model can be pretrained on one and adapted to the other:
digits 0 to 4 (901 scans) and 5 to 9 (896 scans).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

PRETRAIN_DIGITS = (0, 1, 2, 3, 4)
ADAPT_DIGITS = (5, 6, 7, 8, 9)

# Decides once and for all which scans are held out, whatever seed draws the training images.
SPLIT_SEED = 20231115


def load_pretraining_digits(validation_per_class: int = 20) -> DatasetDict:
    """Scans of 0 to 4, with splits `train` and `validation`.

    Args:
        validation_per_class (`int`): Scans of each class kept out of `train`.
    """
    return _build(PRETRAIN_DIGITS, {"validation": validation_per_class, "train": None}, np.random.default_rng(0))


def load_adaptation_digits(
    shots: int = 8, seed: int = 0, validation_per_class: int = 20, test_per_class: int = 120
) -> DatasetDict:
    """Scans of 5 to 9, with splits `train` (few), `validation` and `test`.

    `test` and `validation` are the same for every seed and disjoint from every `train`.

    Args:
        shots (`int`): Labelled training scans of each class.
        seed (`int`): Draws the training scans among those not held out.
        validation_per_class (`int`): Scans of each class in `validation`.
        test_per_class (`int`): Scans of each class in `test`.

    Raises:
        ValueError: If a class has too few scans for these sizes.
    """
    sizes = {"test": test_per_class, "validation": validation_per_class, "train": shots}
    return _build(ADAPT_DIGITS, sizes, np.random.default_rng(seed))


def _build(digits: tuple[int, ...], sizes: Mapping[str, int | None], train_rng: np.random.Generator) -> DatasetDict:
    """Cut the scans of `digits` into splits: all but `train` by `SPLIT_SEED`, `train` from the rest by `train_rng`."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    held_out_rng = np.random.default_rng(SPLIT_SEED)
    indices: dict[str, list[int]] = {split: [] for split in sizes}
    for digit in digits:
        pool = held_out_rng.permutation(np.flatnonzero(scans.target == digit))
        wanted = sum(size or 1 for size in sizes.values())
        if wanted > len(pool):
            raise ValueError(f"Digit {digit} has {len(pool)} scans, {wanted} were asked for; lower the split sizes.")
        for split, size in sizes.items():
            if split == "train":
                pool = train_rng.permutation(pool)
            take = len(pool) if size is None else size
            indices[split].extend(pool[:take].tolist())
            pool = pool[take:]
    return DatasetDict({split: _to_dataset(scans, rows, digits) for split, rows in indices.items()})


def _to_dataset(scans, rows: list[int], digits: tuple[int, ...]) -> Dataset:
    """Scans as 8x8 grey images with their class, in the order of `rows`."""
    images = [PILImage.fromarray((scans.images[row] * (255 / 16)).astype(np.uint8)) for row in rows]
    labels = [digits.index(int(scans.target[row])) for row in rows]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in digits])})
    return Dataset.from_dict({"image": images, "label": labels}, features=features)
