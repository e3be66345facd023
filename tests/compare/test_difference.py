from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from sslpipe.compare.difference import Difference, paired, together, unpaired


def two_sided(won: int, lost: int) -> float:
    """How often tosses of a fair coin come out at least as unequal, counted in whole numbers."""
    n = won + lost
    outcomes = sum(math.comb(n, k) for k in range(max(won, lost), n + 1))
    return float(min(Fraction(1), Fraction(2 * outcomes, 2**n)))


def test_mcnemars_test_is_that_of_a_fair_coin() -> None:
    random = np.random.default_rng(0)
    for n, better in itertools.product((5, 40, 300), (0.0, 0.1, 0.3)):
        first = random.random(n) < 0.6
        second = first ^ (random.random(n) < np.where(first, 0.1, 0.1 + better))
        found = paired(first, second)
        won, lost = int((second & ~first).sum()), int((first & ~second).sum())
        assert found.value == pytest.approx(second.mean() - first.mean())
        assert found.chance == pytest.approx(two_sided(won, lost))


def test_the_paired_interval_holds_zero_where_the_test_finds_nothing() -> None:
    n = 60
    for won, lost in itertools.product(range(20), repeat=2):
        first, second = np.zeros(n, bool), np.zeros(n, bool)
        first[:lost], second[lost : lost + won] = True, True
        found = paired(first, second)
        assert found.measurable == (not found.low <= 0 <= found.high), (won, lost)
        assert found.low <= found.value <= found.high


def test_the_paired_interval_covers_the_truth() -> None:
    random, inside = np.random.default_rng(1), 0
    for _ in range(400):
        first = random.random(500) < 0.7
        second = np.where(random.random(500) < 0.2, random.random(500) < 0.8, first)  # 2 points better
        found = paired(first, second)
        inside += found.low <= 0.2 * (0.8 - 0.7) <= found.high
    assert inside >= 0.94 * 400


def test_what_is_the_same_is_no_difference() -> None:
    right = np.array([True, False, True])
    found = paired(right, right)
    assert (found.value, found.low, found.high, found.chance, found.measurable) == (0, 0, 0, 1, False)


def test_a_thousand_tosses_do_not_overflow() -> None:
    first = np.arange(5000) < 2400
    assert paired(first, ~first).chance == pytest.approx(two_sided(2600, 2400))


def test_scores_alone_add_the_errors_of_images_and_draws() -> None:
    found = unpaired([0.8, 0.9], [100, 400], [0.02, None], draws=4)
    variance = 0.8 * 0.2 / 100 + 0.9 * 0.1 / 400 + 0.02**2 / 4
    assert found.chance == pytest.approx(2 * stats.norm.sf(0.1 / math.sqrt(variance)))
    assert found.measurable
    reach = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((0.1 - reach, 0.1 + reach))


def test_without_any_count_nothing_is_measurable() -> None:
    assert not unpaired([0.1, 0.9], [None, None], [None, None], draws=1).measurable


def test_chances_of_all_together_are_holms() -> None:
    def rejected(chances: list[float], level: float) -> set[int]:
        """The procedure as it was published: the smallest first, each at its own level, until one does not pass."""
        passed: set[int] = set()
        for n in sorted(range(len(chances)), key=lambda n: chances[n]):
            if chances[n] > level / (len(chances) - len(passed)):
                break
            passed.add(n)
        return passed

    random = np.random.default_rng(2)
    for _ in range(50):
        chances = (random.random(8) ** 4).tolist()
        found = together([Difference(value=0, low=0, high=0, chance=chance, how="") for chance in chances])
        for level in (0.01, 0.05, 0.3, 0.999):
            assert {n for n, each in enumerate(found) if each.chance <= level} == rejected(chances, level)
    assert together([]) == []
