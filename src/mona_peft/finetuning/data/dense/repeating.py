"""Repeat-factor sampling: images with rare classes come more often (Gupta et al., LVIS, CVPR 2019, section 5.2).

A class that is in a share f of the training images has the repeat factor max(1, sqrt(t / f)) with a threshold t; an
image has the largest one of its classes.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from torch.utils.data import Dataset


def repeat_factors(classes: Sequence[Set[int]], threshold: float) -> np.ndarray:
    """How often each image is to come in an epoch, `(N,)`, at least 1.

    Args:
        classes (`Sequence[Set[int]]`): Of each image, the classes in it.
        threshold (`float`): Classes in a smaller share of the images are rare.

    Raises:
        ValueError: If no class is rare.
    """
    names, counts = np.unique([name for image in classes for name in image], return_counts=True)
    shares = dict(zip(names.tolist(), (counts / len(classes)).tolist(), strict=True))
    factors = np.array([max([1.0, *((threshold / shares[name]) ** 0.5 for name in image)]) for image in classes])
    if (factors == 1).all():
        least = f"the rarest is in {min(shares.values()):.3g} of them" if shares else "nothing is annotated"
        raise ValueError(
            f"repeat_threshold is {threshold:g}, but no class is in a smaller share of the training images ({least}), "
            "so none would be repeated: raise it, or leave it out."
        )
    return factors


class RepeatedImages(Dataset):
    """Each image as often as its factor says: the whole times always, and the rest by chance.

    The draws come from numpy's global generator, which the loader seeds by (seed, epoch, index).

    Args:
        images (`Dataset`): Map-style, with a length.
        factors (`np.ndarray`): Of [`repeat_factors`].
    """

    def __init__(self, images: Dataset, factors: np.ndarray) -> None:
        self.images = images
        whole = np.floor(factors).astype(int)
        rest = factors - whole
        self.rows = np.repeat(np.arange(len(factors)), whole)
        self.drawn = round(float(rest.sum()))
        self.chances = rest / max(rest.sum(), 1e-12)

    def __len__(self) -> int:
        return len(self.rows) + self.drawn

    def __getitem__(self, index: int) -> object:
        if index < len(self.rows):
            return self.images[int(self.rows[index])]
        return self.images[int(np.random.choice(len(self.chances), p=self.chances))]
