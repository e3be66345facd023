"""The loss, the other numbers of the training curves, and what was measured between epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from sslpipe.report import charts, plots
from sslpipe.report.config import Config
from sslpipe.report.plots import Axis, Figure, Line
from sslpipe.report.run import Run
from sslpipe.report.words import short

ORDER = 120


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where no loss is finite."""
    curves = run.curves
    if "loss" not in curves or not np.isfinite(curves["loss"]).any():
        return None
    loss = curves["loss"]
    x, x_label = charts.clock(curves)
    x_axis, window = charts.over(x), max(1, len(loss) // 40)
    y_axis = plots.axis(float(np.nanmin(loss)), float(np.nanmax(loss)), 6)
    lines = [_line("encoder", x, plots.smooth(loss, window), 500)]
    if window > 1:
        lines.insert(0, _line("faint", x, loss, 700))
    return {
        "smoothed": window > 1,
        "chart": charts.chart(lines, x_axis, y_axis, x_label=x_label, title="Training loss"),
        "curves": _small_curves(curves, x, x_axis, ("step", "epoch", "loss")),
        "between": _between_epochs(run.watched),
        "collapsed": bool(run.metrics.get("pretrain", {}).get("collapsed")),
    }


def _between_epochs(watched: Mapping[str, np.ndarray]) -> list[Figure]:
    """A small chart for each number that was measured between epochs."""
    x = watched.get("epoch", np.empty(0))
    if len(x) < 2 or not np.isfinite(x).all():
        return []
    return _small_curves(watched, x, charts.over(x), ("step", "epoch"))


def _small_curves(
    table: Mapping[str, np.ndarray], x: np.ndarray, x_axis: Axis, left_out: Collection[str]
) -> list[Figure]:
    """A small chart for each column that has more than one number."""
    return [
        _small_curve(name, x, values, x_axis)
        for name, values in table.items()
        if name not in left_out and np.isfinite(values).sum() > 1
    ]


def _small_curve(name: str, x: np.ndarray, values: np.ndarray, x_axis: Axis) -> Figure:
    line = _line("plain", x, values, 240)
    y_axis = plots.axis(float(np.nanmin(values)), float(np.nanmax(values)), 3)

    def draw(width: int) -> Markup:
        title = f"{name} over training"
        return plots.line_chart([line], x_axis, y_axis, width=width, height=120, title=title)

    last = values[np.isfinite(values)][-1]
    return plots.small(draw, name.replace("_", " "), short(float(last)))


def _line(style: str, x: np.ndarray, y: np.ndarray, limit: int) -> Line:
    x, y = plots.thin(x, y, limit)
    return Line(style=style, x=x, y=y)
