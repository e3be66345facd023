"""Charts that the report and the comparison both draw: accuracy over labels, numbers over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from sslpipe.report import plots
from sslpipe.report.plots import WIDE, Axis, Figure, Line
from sslpipe.report.results import rows
from sslpipe.report.run import Efficiency, Run
from sslpipe.report.words import hundredths, integer


def efficiency(run: Run) -> list[Efficiency]:
    """A linear probe's accuracies by number of labels; from its numbers, for a run without the CSV."""
    return run.efficiency or [
        Efficiency(labels=labels, series=series, top1=top1, std=row.std.get(series))
        for row in rows(run.metrics)
        if row.stage == "linear" and (labels := row.labels or run.count("train"))
        for series, top1 in row.top1.items()
    ]


def efficiency_line(
    found: Sequence[Efficiency], style: str, *, marks: str = "circle", values: bool = False
) -> Line:
    """A line of one series, its bars the spread over draws.

    Args:
        found: the series' points, at least one.
        style: the CSS class that colours it.
        marks: "circle" or "diamond".
        values: whether each is written beside its mark.
    """
    points = sorted(found, key=lambda point: point.labels)
    return Line(
        style=style,
        x=np.array([point.labels for point in points]),
        y=np.array([point.top1 for point in points]),
        spread=np.array([point.std or 0.0 for point in points]),
        marks=marks,
        values=hundredths if values else None,
    )


def efficiency_chart(lines: Sequence[Line]) -> Figure:
    """Accuracy against the number of labels, which is on a logarithmic scale."""
    counts = sorted({int(count) for line in lines for count in line.x})
    tops = np.concatenate([line.y for line in lines])
    y_axis = in_percent(tops, 5, margin=0.02)
    x_axis = Axis(
        low=counts[0] / 1.18, high=counts[-1] * 1.18, log=True, ticks=[(n, integer(n)) for n in counts]
    )

    def draw(width: int) -> Markup:
        return plots.line_chart(
            lines,
            x_axis,
            y_axis,
            width=width,
            height=340 if width == WIDE else 280,
            x_label="labelled images",
            title="Accuracy of a linear probe against the number of labelled images",
        )

    return plots.figure(draw)


def in_percent(tops: np.ndarray, count: int, margin: float = 0.0) -> Axis:
    """An axis in percent that holds all of these fractions, NaN aside, within 0 and 1 as far as they are."""
    low, high = float(np.nanmin(tops)) - margin, float(np.nanmax(tops)) + margin
    return plots.axis(max(0.0, low), min(1.0, high), count, lambda value: f"{100 * value:.0f}")


def over(x: Sequence[float] | np.ndarray) -> Axis:
    """A horizontal axis from the first of some rising numbers to the last."""
    low, high = float(x[0]), float(x[-1])
    ticks = [tick for tick in plots.nice_ticks(low, high, 6) if low <= tick <= high]
    return Axis(low=low, high=high, ticks=list(zip(ticks, plots.plain(ticks), strict=True)))


def chart(lines: Sequence[Line], x_axis: Axis, y_axis: Axis, *, x_label: str, title: str) -> Figure:
    """Lines over two axes, as wide as the column."""

    def draw(width: int) -> Markup:
        height = 300 if width == WIDE else 240
        return plots.line_chart(
            lines, x_axis, y_axis, width=width, height=height, x_label=x_label, title=title
        )

    return plots.figure(draw)


def clock(curves: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """The horizontal axis: fractional epochs where both columns allow it, else steps, else rows."""
    count = len(curves["loss"])
    step, epoch = curves.get("step"), curves.get("epoch")
    if epoch is not None and np.isfinite(epoch).all() and len(np.unique(epoch)) > 1:
        if np.any(epoch != np.round(epoch)) or len(np.unique(epoch)) == count:
            return epoch, "epoch"
        if step is not None and np.isfinite(step).all() and step[-1] > step[0]:
            # Whole epochs with many rows each: spread the rows evenly over the epochs.
            first, last = float(epoch[0]), float(epoch[-1]) + 1
            return first + (step - step[0]) / (step[-1] - step[0]) * (last - first), "epoch"
    if step is not None and np.isfinite(step).all():
        return step, "step"
    return np.arange(count, dtype=float), "row"
