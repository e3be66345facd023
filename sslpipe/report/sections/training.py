"""The loss, the other numbers of the training curves, and what was measured between epochs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sslpipe.report import charts, plots
from sslpipe.report.plots import Axis, Chart, Figure, Line
from sslpipe.report.run import Context, Run
from sslpipe.report.words import short

ORDER = 120


def context(run: Run) -> Context:
    """What the template shows; None where no loss is finite."""
    curves, watched = run.curves, run.watched
    if "loss" not in curves or not np.isfinite(curves["loss"]).any():
        return None
    loss = curves["loss"]
    x, x_label = charts.clock(curves)
    x_axis, window = charts.over(x), max(1, len(loss) // 40)
    y_axis = plots.axis(float(np.nanmin(loss)), float(np.nanmax(loss)), 6)
    lines = [_line("encoder", x, plots.smooth(loss, window), 500)]
    if window > 1:
        lines.insert(0, _line("faint", x, loss, 700))
    epochs = watched.get("epoch", np.empty(0))
    between = len(epochs) > 1 and np.isfinite(epochs).all()
    return {
        "smoothed": window > 1,
        "chart": charts.wide(Chart(lines, x_axis, y_axis, "Training loss", x_label)),
        "curves": _small_curves({name: y for name, y in curves.items() if name != "loss"}, x, x_axis),
        "between": _small_curves(watched, epochs, charts.over(epochs)) if between else [],
    }


def _small_curves(table: Mapping[str, np.ndarray], x: np.ndarray, x_axis: Axis) -> list[Figure]:
    """A small chart for each column that has more than one number, but the time."""
    return [
        _small_curve(name, x, values, x_axis)
        for name, values in table.items()
        if name not in ("step", "epoch") and np.isfinite(values).sum() > 1
    ]


def _small_curve(name: str, x: np.ndarray, values: np.ndarray, x_axis: Axis) -> Figure:
    lines = [_line("plain", x, values, 240)]
    y_axis = plots.axis(float(np.nanmin(values)), float(np.nanmax(values)), 3)
    last = values[np.isfinite(values)][-1]
    drawn = Chart(lines, x_axis, y_axis, f"{name} over training")
    return charts.small(drawn, 120, name.replace("_", " "), short(float(last)))


def _line(style: str, x: np.ndarray, y: np.ndarray, limit: int) -> Line:
    x, y = plots.thin(x, y, limit)
    return Line(style=style, x=x, y=y)
