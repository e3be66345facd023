"""How much two runs differ in a score, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_LEVEL = 0.05  # a difference counts where chance gives as much less often


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A second run's score minus a first one's, as fractions, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    chance: float  # the probability of a difference at least as large between runs that are equally good
    how: str  # what these rest on, in words

    @property
    def measurable(self) -> bool:
        """Whether chance alone would give so much in fewer than one in twenty comparisons."""
        return self.chance < _LEVEL


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of two classifiers on the same images: bool [N] each, right or wrong.

    Only images that one gets right and the other wrong count: McNemar's exact test, and the interval that belongs to
    it, which holds 0 exactly where the test finds nothing: that of Clopper and Pearson for the fraction of these images
    that the second one wins (McNemar 1947; Agresti, Categorical Data Analysis, Sec. 11.1).
    """
    from scipy import stats

    n = len(first)
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    low, high, chance = 0.0, 0.0, 1.0
    if tosses := won + lost:
        test = stats.binomtest(won, tosses)  # the two-sided test of a fair coin
        fraction, chance = test.proportion_ci(1 - _LEVEL, method="exact"), float(test.pvalue)
        low, high = ((2 * float(end) - 1) * tosses / n for end in (fraction.low, fraction.high))
    how = f"the same {n} test images: {won} won, {lost} lost"
    return Difference(value=(won - lost) / n, low=low, high=high, chance=chance, how=how)


def unpaired(
    scores: Sequence[float], images: Sequence[int | None], deviations: Sequence[float | None], draws: int
) -> Difference:
    """Of two scores that are known as numbers only, taken as normal.

    The errors of sampling the test images (binomial) and the labels (over draws) are taken for independent, which
    errs on the safe side where both runs saw the same ones.

    Args:
        scores: of the first and the second run, fractions.
        images: test images of each, None where not known.
        deviations: standard deviation over draws of labels or seeds, None for a single one.
        draws: how many, of labels or of seeds.
    """
    variance = sum(p * (1 - p) / n for p, n in zip(scores, images, strict=True) if n)
    variance += sum(s**2 / max(draws, 1) for s in deviations if s is not None)
    value, error = scores[1] - scores[0], math.sqrt(variance)
    chance = math.erfc(abs(value) / error / math.sqrt(2)) if error else float(value == 0)
    spread = f", {draws} draws" if any(s is not None for s in deviations) else ""
    known = [n for n in images if n]
    how = f"{' and '.join(map(str, dict.fromkeys(known)))} test images{spread}" if known else "no counts"
    if not known and not spread:
        chance, error = 1.0, math.inf
    reach = 1.959964 * error
    return Difference(value=value, low=value - reach, high=value + reach, chance=chance, how=how)


def together(differences: Sequence[Difference]) -> list[Difference]:
    """The same with chances for all of them together: that of even one so large among as many runs equally good.

    By Holm (1979), which holds however the differences hang together; intervals stay those of each alone.
    """
    order = sorted(range(len(differences)), key=lambda n: differences[n].chance)
    found, floor = list(differences), 0.0
    for place, n in enumerate(order):
        floor = max(floor, min(1.0, (len(order) - place) * differences[n].chance))
        found[n] = replace(differences[n], chance=floor)
    return found
