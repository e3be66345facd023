"""How much two runs differ in a score, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_REACH = 1.959964  # of a 95 % interval, in standard errors


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A second run's score minus a first one's, as fractions.

    Attributes:
        value: the difference.
        error: its standard error.
        chance: the probability of a difference at least as large between runs that are equally good.
        how: what the error rests on, in words.
    """

    value: float
    error: float
    chance: float
    how: str

    @property
    def measurable(self) -> bool:
        """Whether chance alone would give so much in fewer than one in twenty comparisons."""
        return self.chance < 0.05

    @property
    def reach(self) -> float:
        """Half of the 95 % interval."""
        return _REACH * self.error


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of two classifiers on the same images.

    Only images that one gets right and the other wrong count: McNemar's exact test, and the standard error of the
    difference of paired proportions (McNemar 1947; Agresti, Categorical Data Analysis, Sec. 11.1).

    Args:
        first: bool [N], right or wrong.
        second: bool [N], of the same images.
    """
    n = len(first)
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    value = (won - lost) / n
    error = math.sqrt(max(won + lost - (won - lost) ** 2 / n, 0.0)) / n
    return Difference(
        value=value,
        error=error,
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
    """Of two scores that are known as numbers only.

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
    return Difference(value=value, error=error, chance=chance if known or spread else 1.0, how=how)
