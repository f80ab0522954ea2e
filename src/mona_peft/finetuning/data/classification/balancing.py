"""Long tails: draws that see every class as often, and weights that make every class count as much."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset


class BalancedImages(Dataset):
    """As many draws as there are images, each of a class drawn with the same chance as any other.

    The draws come from numpy's global generator, which the loader seeds by (seed, epoch, index): they are the same
    however many workers there are, and after a resume.

    Args:
        images (`Dataset`): Map-style, with a length.
        labels (`np.ndarray`): Class of each, `(N,)`.
    """

    def __init__(self, images: Dataset, labels: np.ndarray) -> None:
        self.images = images
        self.rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> object:
        rows = self.rows[np.random.randint(len(self.rows))]
        return self.images[int(rows[np.random.randint(len(rows))])]


def class_weights(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """Weights `(classes,)` under which all classes that there are count as much, 1 on average over the images.

    Args:
        labels (`np.ndarray`): Class of each image, `(N,)`.
        num_classes (`int`): Also of those of which there is none, whose weight is 0.
    """
    return balanced_weights(np.bincount(labels, minlength=num_classes))


def balanced_weights(counts: np.ndarray) -> torch.Tensor:
    """Weights `(classes,)` under which all classes that there are count as much, 1 on average over what was counted.

    Args:
        counts (`np.ndarray`): How many images, or pixels, there are of each class, `(classes,)`.
    """
    present = np.count_nonzero(counts)
    weights = np.divide(counts.sum(), present * counts, out=np.zeros(len(counts)), where=counts > 0)
    return torch.from_numpy(weights).float()


def positive_weights(labels: np.ndarray) -> torch.Tensor:
    """Weights `(classes,)` of the positives under which they count as much as the negatives; 1 where one is missing.

    Args:
        labels (`np.ndarray`): 1, 0 and -1 (left out), `(N, classes)`.
    """
    positive, negative = (labels == 1).sum(0), (labels == 0).sum(0)
    both = (positive > 0) & (negative > 0)
    weights = np.divide(negative, positive, out=np.ones(labels.shape[1]), where=both)
    return torch.from_numpy(weights).float()
