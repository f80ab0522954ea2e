"""The split that a study chooses on, and the one it reports.

Most official layouts have one split next to the training set, where the paper both chose and reported. A study keeps
the two apart: it chooses on images held out of the training set, unless it is told to choose as the paper did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import datasets
import numpy as np

#: Under which name a study's settings say what it chose on.
CHOSEN_ON = "chosen_on"
#: What is chosen on where the settings do not say it.
VALIDATION = "the validation split"


Rows: TypeAlias = "datasets.Dataset | Sequence"


@dataclass(frozen=True)
class StudySplits:
    """Splits of a study.

    Args:
        splits (`Mapping[str, object]`): With `train`, `validation` and `test`.
        chosen_on (`str`): What is chosen on, for tables.
    """

    splits: Mapping[str, object]
    chosen_on: str


def study_splits(splits: Mapping[str, object], select_on: str, fraction: float) -> StudySplits:
    """Settle what a study chooses on and what it reports.

    Where a data set has a validation or a test split only, that one is reported.

    Args:
        splits (`Mapping[str, object]`): Of the data set, each a `datasets.Dataset` or a sequence.
        select_on (`str`): `"validation"`, held out of the training set where there is no such split, or `"test"`.
        fraction (`float`): Share of the training set to hold out.

    Raises:
        ValueError: If the data has no split to report, or nothing can be held out.
    """
    train, reported = splits.get("train"), splits.get("test", splits.get("validation"))
    if train is None or reported is None:
        raise ValueError(
            f"A study trains on one split and reports another; the data has only {', '.join(splits) or 'none'}. Name "
            "what is missing with --train_split or --test_split."
        )
    if select_on == "test":
        chosen_on = "the test split, weights too, as the paper did"
        return StudySplits({"train": train, "validation": reported, "test": reported}, chosen_on)
    if {"validation", "test"} <= splits.keys():
        return StudySplits(splits, VALIDATION)
    kept, held_out = hold_out(train, fraction)
    chosen_on = f"{len(held_out):,} of {len(kept) + len(held_out):,} training images, held out"
    return StudySplits({"train": kept, "validation": held_out, "test": reported}, chosen_on)


def hold_out(split: object, fraction: float) -> tuple[Rows, Rows]:
    """Cut a share off a split at random, the same for every run of a study.

    Raises:
        ValueError: If the split is a stream, or has fewer than two samples.
    """
    if not isinstance(split, datasets.Dataset | Sequence):
        raise ValueError("Nothing can be held out of a stream; name a validation split.")
    if len(split) < 2:
        raise ValueError(f"Nothing can be held out of {len(split)} training samples; name a validation split.")
    size = min(max(1, round(fraction * len(split))), len(split) - 1)
    order = np.random.default_rng(0).permutation(len(split)).tolist()
    kept, held_out = (_select(split, sorted(part)) for part in (order[size:], order[:size]))
    return kept, held_out


def _select(split: Rows, indices: list[int]) -> Rows:
    return split.select(indices) if isinstance(split, datasets.Dataset) else [split[index] for index in indices]
