"""A part of the training images held out to validate on, where the data has no validation split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mona_peft.finetuning.environment import say


def draw_held_out(groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions of the images to hold out: the share of each group, at least one of it, never all of it.

    Args:
        groups (`np.ndarray`): Group of each image, `(N,)`: its class, or all the same where it has none.
        fraction (`float`): Share to hold out.
        seed (`int`): Draws them.

    Returns:
        `np.ndarray`: Positions in ascending order.
    """
    generator = np.random.default_rng(seed)
    parts = []
    for group in np.unique(groups):
        members = generator.permutation(np.flatnonzero(groups == group))
        parts.append(members[: min(len(members) - 1, max(1, round(fraction * len(members))))])
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, int)


def split_positions(groups: Sequence[int] | np.ndarray, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions to train on and to validate on; says how many are held out.

    Raises:
        ValueError: If nothing can be held out: one image of each class is to be trained on.
    """
    groups = np.asarray(groups)
    held = draw_held_out(groups, fraction, seed)
    if not len(held):
        raise ValueError(
            f"There are {len(groups)} training images, too few to hold one out of each class to validate on. Add "
            "images, or train without validation: --validation_fraction 0."
        )
    kept = np.setdiff1d(np.arange(len(groups)), held)
    say(
        f"No validation split: {len(held)} of the {len(groups)} training images are held out to validate on "
        f"(--validation_fraction {fraction:g}; 0 trains on all)."
    )
    return kept.tolist(), held.tolist()
