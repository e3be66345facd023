"""Scores on another labelled set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run
from sslpipe.report.scores import beside_baselines
from sslpipe.report.series import PREFIX, SERIES
from sslpipe.report.words import integer, is_number

ORDER = 80


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where there are no scores."""
    found = run.metrics.get("transfer", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping) or not is_number(found.get("linear_top1")):
        return None
    few = found.get("few_labels")
    few = few if isinstance(few, Mapping) else {}
    numbers = dict(found) | {
        f"{prefix}few_{count}": each.get(f"{prefix}top1")
        for count, each in few.items()
        for prefix in PREFIX.values()
    }
    rows = [
        ("Linear probe, all labels", "linear_top1"),
        *((f"Linear probe, {integer(int(count))} labels", f"few_{count}") for count in few),
        ("k-NN, all labels", "knn_top1"),
    ]
    return {
        "source": protocol.get("source", "Another set"),
        "train": protocol.get("train_images", 0),
        "test": protocol.get("test_images", 0),
        "classes": protocol.get("classes", "?"),
        "columns": list(SERIES),
        "rows": beside_baselines(numbers, rows, tuple(SERIES)),
    }
