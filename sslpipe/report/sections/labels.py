"""Accuracy of a linear probe against the number of labelled images."""

from __future__ import annotations

from sslpipe.report import charts
from sslpipe.report.run import Context, Run
from sslpipe.report.series import MARKS, SERIES

ORDER = 20


def context(run: Run) -> Context:
    """What the template shows; None where there are fewer than two numbers of labels."""
    found = run.efficiency
    if len({point.labels for point in found}) < 2:
        return None
    shown = [series for series in SERIES if any(point.series == series for point in found)]
    lines = [
        charts.efficiency_line(
            [point for point in found if point.series == series],
            MARKS[series],
            marks="diamond" if series == "raw_pixel" else "circle",
            values=series == "encoder",
        )
        for series in reversed(shown)
    ]
    return {"columns": shown, "chart": charts.efficiency_chart(lines)}
