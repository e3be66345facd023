"""How much two runs differ in a score, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_LEVEL = 0.05  # a difference counts where chance gives as much less often


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A second run's score minus a first one's, as fractions.

    Attributes:
        value: the difference.
        low: the lower end of its 95 % interval.
        high: the upper end.
        chance: the probability of a difference at least as large between runs that are equally good.
        how: what these rest on, in words.
    """

    value: float
    low: float
    high: float
    chance: float
    how: str

    @property
    def measurable(self) -> bool:
        """Whether chance alone would give so much in fewer than one in twenty comparisons."""
        return self.chance < _LEVEL


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of two classifiers on the same images.

    Only images that one gets right and the other wrong count: McNemar's exact test, and the interval that belongs to
    it, which holds 0 exactly where the test finds nothing: that of Clopper and Pearson for the share of these images
    that the second one wins (McNemar 1947; Agresti, Categorical Data Analysis, Sec. 11.1).

    Args:
        first: bool [N], right or wrong.
        second: bool [N], of the same images.
    """
    from scipy import stats

    n = len(first)
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    tosses = won + lost
    low = high = 0.0
    if tosses:
        share = stats.binomtest(won, tosses).proportion_ci(1 - _LEVEL, method="exact")
        low, high = ((2 * end - 1) * tosses / n for end in (float(share.low), float(share.high)))
    return Difference(
        value=(won - lost) / n,
        low=low,
        high=high,
        chance=_mcnemar(won, lost),
        how=f"the same {n} test images: {won} won, {lost} lost",
    )


def _mcnemar(won: int, lost: int) -> float:
    """Two-sided probability of a split at least as uneven of so many coin tosses."""
    tosses = won + lost
    tail = sum(math.comb(tosses, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**tosses)


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
    how = (
        f"{' and '.join(str(n) for n in dict.fromkeys(known))} test images{spread}" if known else "no counts"
    )
    told = bool(known or spread)
    reach = 1.959964 * error if told else math.inf
    return Difference(
        value=value, low=value - reach, high=value + reach, chance=chance if told else 1.0, how=how
    )


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
