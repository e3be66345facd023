from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from sslpipe.report.difference import paired, unpaired


def test_mcnemars_test_is_scipys_binomial_test() -> None:
    random = np.random.default_rng(0)
    for n, better in itertools.product((5, 40, 300), (0.0, 0.1, 0.3)):
        first = random.random(n) < 0.6
        second = first ^ (random.random(n) < np.where(first, 0.1, 0.1 + better))
        found = paired(first, second)
        won, lost = int((second & ~first).sum()), int((first & ~second).sum())
        assert found.value == pytest.approx(second.mean() - first.mean())
        expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
        assert found.chance == pytest.approx(expected)


def test_the_paired_error_is_that_of_a_mean_of_differences() -> None:
    random = np.random.default_rng(1)
    first, second = random.random(500) < 0.7, random.random(500) < 0.75
    change = second.astype(float) - first
    assert paired(first, second).error == pytest.approx(change.std() / math.sqrt(500))


def test_what_is_the_same_is_no_difference() -> None:
    right = np.array([True, False, True])
    found = paired(right, right)
    assert (found.value, found.error, found.chance, found.measurable) == (0, 0, 1, False)


def test_a_thousand_tosses_do_not_overflow() -> None:
    first = np.arange(5000) < 2400
    assert paired(first, ~first).chance == pytest.approx(stats.binomtest(2600, 5000).pvalue)


def test_scores_alone_add_the_errors_of_images_and_draws() -> None:
    found = unpaired([0.8, 0.9], [100, 400], [0.02, None], draws=4)
    variance = 0.8 * 0.2 / 100 + 0.9 * 0.1 / 400 + 0.02**2 / 4
    assert found.error == pytest.approx(math.sqrt(variance))
    assert found.chance == pytest.approx(2 * stats.norm.sf(0.1 / math.sqrt(variance)))
    assert found.measurable
    assert found.reach == pytest.approx(stats.norm.ppf(0.975) * found.error)


def test_without_any_count_nothing_is_measurable() -> None:
    assert not unpaired([0.1, 0.9], [None, None], [None, None], draws=1).measurable
