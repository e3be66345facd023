"""Scores on another labelled set."""

from __future__ import annotations

from sslpipe.report.results import beside_baselines
from sslpipe.report.run import Context, Run
from sslpipe.report.series import PREFIX, SERIES
from sslpipe.report.words import integer, is_number, mapping

ORDER = 80


def context(run: Run) -> Context:
    """What the template shows; None where there are no scores."""
    found = run.metrics.get("transfer", {})
    if "protocol" not in found or not is_number(found.get("linear_top1")):
        return None
    few = mapping(found.get("few_labels"))
    numbers = found | {
        f"{prefix}few_{count}": each.get(f"{prefix}top1")
        for count, each in few.items()
        for prefix in PREFIX.values()
    }
    rows = [
        ("Linear probe, all labels", "linear_top1"),
        *((f"Linear probe, {integer(int(count))} labels", f"few_{count}") for count in few),
        ("k-NN, all labels", "knn_top1"),
    ]
    columns = list(SERIES)
    shown = beside_baselines(numbers, rows, columns)
    return {"protocol": run.protocol("transfer"), "columns": columns, "rows": shown}
