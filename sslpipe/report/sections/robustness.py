"""What the features ignore, and accuracy under corruptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from sslpipe.report import charts, plots
from sslpipe.report.config import Config
from sslpipe.report.plots import NARROW, Axis, Figure, Line
from sslpipe.report.run import Run
from sslpipe.report.series import MARKS, PREFIX
from sslpipe.report.words import is_number

ORDER = 70
_PREFIX = {series: PREFIX[series] for series in ("encoder", "random_init")}
_NAMES = {
    "hflip": "mirrored", "vflip": "upside down", "quarter_turns": "quarter turn", "grey": "no colour",
    "solarize": "solarized",
}  # fmt: skip
_Operations = list[tuple[str, bool, dict[str, float]]]  # a name, whether in the recipe, a value by CSS class


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows: a dot an operation and network; accuracy against severity for each corruption."""
    metrics = run.metrics.get("robustness", {})
    operations = _operations(metrics)
    clean = {series: metrics.get(f"{prefix}top1") for series, prefix in _PREFIX.items()}
    curves = {name: _curves(metrics, name, clean) for name in _mapping(metrics, "corruptions")}
    curves = {name: lines for name, lines in curves.items() if lines}
    if not operations and not curves:
        return None
    return {
        "columns": list(_PREFIX),
        "chart": _chart(operations) if operations else None,
        "trained": any(trained for _, trained, _ in operations),
        "without": [_NAMES.get(str(name), str(name)) for name in metrics.get("without_effect") or ()],
        "corruptions": _corruptions(curves),
        "means": _means(metrics, clean),
    }


def _operations(metrics: Mapping[str, Any]) -> _Operations:
    """The operations, those that the encoder ignores most first."""
    found = []
    trained = metrics.get("in_recipe") or ()
    for operation, value in _mapping(metrics, "invariance").items():
        if is_number(value):
            values = {MARKS["encoder"]: float(value)}
            random = _mapping(metrics, "random_init_invariance").get(operation)
            if is_number(random):
                values = {MARKS["random_init"]: float(random), **values}
            found.append((_NAMES.get(operation, operation), operation in trained, values))
    return sorted(found, key=lambda row: -row[2][MARKS["encoder"]])


def _chart(operations: _Operations) -> Figure:
    low = min(0.0, *(value for *_, values in operations for value in values.values()))

    def draw(width: int) -> Markup:
        axis = plots.axis(low, 1.0, 6 if width > NARROW else 4)
        return plots.dots(
            operations, axis, width=width, title="Invariance of the features to single operations"
        )

    return plots.figure(draw)


def _means(metrics: Mapping[str, Any], clean: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """By series, accuracy on clean images and the mean on corrupted ones."""
    means = {series: metrics.get(f"{prefix}mean_corrupted_top1") for series, prefix in _PREFIX.items()}
    return [
        (series, clean[series], mean)
        for series, mean in means.items()
        if is_number(mean) and is_number(clean[series])
    ]


def _corruptions(curves: Mapping[str, list[Line]]) -> list[Figure]:
    """Small charts of accuracy against severity, 0 the clean image."""
    if not curves:
        return []
    tops = np.concatenate([line.y for lines in curves.values() for line in lines])
    y_axis = charts.in_percent(tops, 4, margin=0.02)
    return [_small(name.replace("_", " "), lines, y_axis) for name, lines in curves.items()]


def _curves(metrics: Mapping[str, Any], name: str, clean: Mapping[str, Any]) -> list[Line]:
    lines = []
    for series, prefix in reversed(_PREFIX.items()):
        scores = _mapping(metrics, f"{prefix}corruptions").get(name)
        if isinstance(scores, Mapping) and is_number(clean[series]):
            known = {int(s): v for s, v in scores.items() if is_number(v) and str(s).isdigit()}
            points = sorted({0: clean[series], **known}.items())
            x, y = np.array(points).T
            lines.append(Line(style=MARKS[series], x=x, y=y, marks="circle"))
    return lines


def _small(name: str, lines: list[Line], y_axis: Axis) -> Figure:
    x_axis = Axis(low=0, high=5, ticks=[(n, str(n)) for n in range(6)])

    def draw(width: int) -> Markup:
        title = f"Accuracy against severity: {name}"
        return plots.line_chart(lines, x_axis, y_axis, width=width, height=150, title=title)

    return plots.small(draw, name)


def _mapping(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = metrics.get(name)
    return value if isinstance(value, Mapping) else {}
