"""Statistics over seeds, against values computed by hand or by another route."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mona_peft.finetuning.study.selection import choose_rate, chosen_records
from mona_peft.finetuning.study.statistics import bootstrap_interval, paired_p_value, spread
from tests.finetuning.study.fakes import record


def test_bootstrap_interval_is_that_of_all_resamples():
    values = [0.1, 0.4, 0.9]
    means = [np.mean(sample) for sample in itertools.product(values, repeat=3)]
    low, high = bootstrap_interval(values, level=0.8, resamples=200_000)
    assert low == pytest.approx(np.quantile(means, 0.1), abs=0.02)
    assert high == pytest.approx(np.quantile(means, 0.9), abs=0.02)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_bootstrap_interval_of_one_value_is_that_value():
    assert bootstrap_interval([0.25]) == (0.25, 0.25)
    with pytest.raises(ValueError, match="no value"):
        bootstrap_interval([])


def test_paired_test_uses_common_seeds_in_their_order():
    values = {3: 0.9, 0: 0.5, 1: 0.7, 2: 0.6}
    reference = {0: 0.4, 1: 0.65, 2: 0.35, 9: 0.0}
    expected = stats.ttest_rel([0.5, 0.7, 0.6], [0.4, 0.65, 0.35]).pvalue
    assert paired_p_value(values, reference) == pytest.approx(expected)
    assert paired_p_value(values, reference) != pytest.approx(
        stats.ttest_ind([0.5, 0.7, 0.6], [0.4, 0.65, 0.35]).pvalue
    )


def test_paired_test_says_when_there_is_nothing_to_test():
    assert paired_p_value({0: 0.5}, {0: 0.4}) is None
    assert paired_p_value({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6}) is None
    assert paired_p_value({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5}) == 0.0


def test_spread_is_the_sample_deviation():
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0]) == 0.0


def test_rates_are_chosen_on_validation_alone():
    records = [record("a", rate, seed, v, t) for rate, v, t in ((0.1, 0.6, 0.9), (0.2, 0.8, 0.1)) for seed in (0, 1)]
    assert choose_rate(records) == 0.2
    swapped = [record("a", r.learning_rate, r.seed, r.validation, 1 - r.test["accuracy"]) for r in records]
    assert choose_rate(swapped) == 0.2


def test_equal_rates_give_the_lowest():
    assert choose_rate([record("a", rate, 0, 0.5, 0.5) for rate in (0.3, 0.1, 0.2)]) == 0.1


def test_seeds_beyond_the_grid_do_not_change_the_choice():
    records = [record("a", 0.1, 0, 0.6, 0.5), record("a", 0.2, 0, 0.7, 0.5), record("a", 0.2, 1, 0.1, 0.5)]
    assert choose_rate(records) == 0.1
    assert choose_rate(records, seeds=1) == 0.2
    assert [r.seed for r in chosen_records(records[::-1], seeds=1)["a"]] == [0, 1]


def test_no_run_is_said():
    with pytest.raises(ValueError, match="run the study first"):
        choose_rate([])
