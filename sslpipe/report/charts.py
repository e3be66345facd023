"""Charts that the report and the comparison both draw: accuracy over labels, numbers over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sslpipe.report import plots
from sslpipe.report.plots import NARROW, WIDE, Axis, Chart, Figure, Line
from sslpipe.report.run import Efficiency
from sslpipe.report.words import hundredths, integer


def efficiency_line(
    found: Sequence[Efficiency], style: str, *, marks: str = "circle", values: bool = False
) -> Line:
    """A line of one series, its bars the spread over draws, with each value beside its mark if so wanted."""
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
    ticks = [(n, integer(n)) for n in counts]
    x_axis = Axis(low=counts[0] / 1.18, high=counts[-1] * 1.18, log=True, ticks=ticks)
    y_axis = in_percent(np.concatenate([line.y for line in lines]), 5, margin=0.02)
    title = "Accuracy of a linear probe against the number of labelled images"
    return wide(Chart(lines, x_axis, y_axis, title, "labelled images"), heights=(340, 280))


def in_percent(tops: np.ndarray, count: int, margin: float = 0.0) -> Axis:
    """An axis in percent that holds all of these fractions, NaN aside, within 0 and 1 as far as they are."""
    low, high = float(np.nanmin(tops)) - margin, float(np.nanmax(tops)) + margin
    return plots.axis(max(0.0, low), min(1.0, high), count, lambda value: f"{100 * value:.0f}")


def over(x: Sequence[float] | np.ndarray) -> Axis:
    """A horizontal axis from the first of some rising numbers to the last."""
    low, high = float(x[0]), float(x[-1])
    ticks = [tick for tick in plots.nice_ticks(low, high, 6) if low <= tick <= high]
    return Axis(low=low, high=high, ticks=list(zip(ticks, plots.plain(ticks), strict=True)))


def wide(chart: Chart, heights: tuple[int, int] = (300, 240)) -> Figure:
    """A chart as wide as the column, so high on a desktop and on a phone."""
    drawn = [plots.line_chart(chart, *size) for size in zip((WIDE, NARROW), heights, strict=True)]
    return Figure(wide=drawn[0], narrow=drawn[1])


def small(chart: Chart, height: int, caption: str, value: str = "") -> Figure:
    """One of the charts that stand beside each other."""
    drawn = [plots.line_chart(chart, width, height) for width in (250, NARROW)]
    return Figure(wide=drawn[0], narrow=drawn[1], caption=caption, value=value)


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
