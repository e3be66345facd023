"""One evaluation under several seeds: the mean of its numbers, and how far they spread."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sslpipe.evals.base.outcome import Outcome

APART = 1_000_000  # between seeds, more than an evaluation adds to its own for its draws


def repeated(evaluate: Callable[[int], Outcome], seeds: int, seed: int) -> Outcome:
    """An evaluation under several seeds: the mean of its numbers, and the details of the first seed.

    The encoder stays the same: what spreads is what the evaluation itself draws, such as labels, order, new layers,
    the part of train that settings are chosen on, and random weights to compare with. Another seed of pretraining
    would differ more.
    """
    first = evaluate(seed)
    if seeds == 1:
        return first
    runs = [first, *(evaluate(seed + APART * number) for number in range(1, seeds))]
    return Outcome(
        metrics=merge([run.metrics for run in runs]),
        protocol={**_listed([run.protocol for run in runs]), "seeds": seeds},
        details=first.details,
    )


def merge(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of several seeds as one mapping of the same shape.

    A fraction becomes its mean, with the standard deviation (of the population, as everywhere here) beside it as
    `<name>_std`. Where the evaluation already gives a deviation over draws, the two are put together: seeds draw anew,
    so all draws of all seeds are one sample. Lists of drawn results are joined. What is the same in all stays; what
    else differs, such as a learning rate chosen, is listed, a value a seed.
    """
    merged: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        first = values[0]
        if name.endswith("_std") and isinstance(first, float) and name.removesuffix("_std") in runs[0]:
            continue  # goes with the value it belongs to
        if isinstance(first, Mapping):
            merged[name] = merge(values)
        elif isinstance(first, list) and name == "draws":
            drawn = itertools.chain.from_iterable(values)
            merged[name] = [{**each, "draw": number} for number, each in enumerate(drawn)]
        elif isinstance(first, list) and all(isinstance(value, float | None) for value in first):
            known = [[value for value in column if value is not None] for column in zip(*values, strict=True)]
            merged[name] = [statistics.fmean(column) if column else None for column in known]
        elif isinstance(first, float):
            merged[name] = statistics.fmean(values)
            merged[f"{name}_std"] = _spread(values, [run.get(f"{name}_std", 0.0) for run in runs])
        else:
            merged[name] = first if all(value == first for value in values) else values
    return merged


def _listed(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Protocols as one: what differs is listed, a value a seed."""
    found: dict[str, Any] = {}
    for name, first in values[0].items():
        each = [value.get(name) for value in values]
        if all(value == first for value in each):
            found[name] = first
        elif all(isinstance(value, Mapping) for value in each):
            found[name] = _listed([value for value in each if isinstance(value, Mapping)])
        else:
            found[name] = each
    return found


def _spread(values: Sequence[float], within: Sequence[float]) -> float:
    """Standard deviation of a sample made of equal parts with these means and deviations."""
    return math.sqrt(statistics.fmean(s**2 for s in within) + statistics.pvariance(values))
