"""The result table: every protocol beside its baselines."""

from __future__ import annotations

import functools
import math

from sslpipe import evals
from sslpipe.report import results
from sslpipe.report.results import Row
from sslpipe.report.run import Context, Run
from sslpipe.report.series import SERIES
from sslpipe.report.words import is_number, mapping

ORDER = 10


def context(run: Run) -> Context:
    """What the template shows; None where nothing was evaluated."""
    rows = results.rows(run.metrics)
    if not rows:
        return None
    scored = [row for row in rows if row.skipped is None]
    low = _lowest(scored)
    protocols = {title: run.protocol(name) for name, title in _titles().items()}
    return {
        "rows": rows,
        "scored": scored,
        "columns": [series for series in SERIES if any(series in row.top1 for row in scored)],
        "ticks": [tick for tick in range(low, 101) if tick % (10 if 100 - low <= 40 else 20) == 0],
        "along": functools.partial(_along, low=low),
        "precision": _precision(run, scored),
        "deviations": any(row.std for row in scored),
        "without_duplicates": _without_duplicates(run),
        "protocols": {title: protocol for title, protocol in protocols.items() if protocol},
    }


def _titles() -> dict[str, str]:
    return {name: evals.declarations()[name].title for name in results.told_by_accuracy()}


def _lowest(rows: list[Row]) -> int:
    """Where the scale of the marks begins, in percent: on a ten below the lowest accuracy."""
    values = [value for row in rows for value in row.top1.values()]
    return max(0, math.floor((min(values) - 0.03) * 10) * 10) if values else 0


def _along(fraction: float, low: int) -> float:
    """How far along the scale an accuracy lies, in percent of its length."""
    return 100 * (100 * fraction - low) / (100 - low)


def _precision(run: Run, rows: list[Row]) -> tuple[int, float, float] | None:
    """The number of test images, the best accuracy on them, and its standard error."""
    count = run.count("test")
    best = max((row.top1["encoder"] for row in rows if "encoder" in row.top1), default=None)
    return (count, best, results.standard_error(best, count)) if count and best is not None else None


def _without_duplicates(run: Run) -> tuple[int, list[tuple[str, float, float]]] | None:
    """What remains of the scores where test images that repeat training images are left out.

    Returns:
        How many test images are left, and for each evaluation its title, its accuracy and the change of it.
    """
    found, images = [], None
    for stage, title in _titles().items():
        entry = run.metrics.get(stage, {})
        others = mapping(entry.get("without_duplicates"))
        if is_number(others.get("top1")):
            found.append((title, others["top1"], others["top1"] - entry["top1"]))
            images = others.get("test_images")
    return (images, found) if found and images else None
