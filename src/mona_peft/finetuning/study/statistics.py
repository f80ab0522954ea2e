"""Statistics over the seeds of a study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def bootstrap_interval(values: Sequence[float], level: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron and Tibshirani 1993, chapter 13).

    The resampling is drawn from a fixed seed, so that a table made twice is the same.

    Args:
        values (`Sequence[float]`): One a seed.
        level (`float`): Share of the resampled means inside.
        resamples (`int`): How many to draw.

    Raises:
        ValueError: If there is no value.
    """
    if not len(values):
        raise ValueError("There is no value to take an interval of.")
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p_value(values: dict[int, float], reference: dict[int, float]) -> float | None:
    """Two-sided p-value of a paired t-test over the seeds that both have.

    Args:
        values (`dict[int, float]`): Figures by seed.
        reference (`dict[int, float]`): Figures of what they are compared with.

    Returns:
        `float` or `None`: `None` for fewer than two common seeds or where all differences are zero.
    """
    seeds = sorted(values.keys() & reference.keys())
    differences = np.asarray([values[seed] - reference[seed] for seed in seeds])
    if len(seeds) < 2 or not differences.any():
        return None
    if np.ptp(differences) == 0:  # no variance: the t statistic is infinite
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
