"""What the features ignore, and accuracy under corruptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from sslpipe.report import charts, plots
from sslpipe.report.plots import NARROW, Chart, Dots, Figure, Line
from sslpipe.report.run import Context, Run
from sslpipe.report.series import MARKS, PREFIX
from sslpipe.report.words import is_number, mapping

ORDER = 70
_PREFIX = {series: PREFIX[series] for series in ("encoder", "random_init")}
_NAMES = {
    "hflip": "mirrored", "vflip": "upside down", "quarter_turns": "quarter turn", "grey": "no colour",
    "solarize": "solarized",
}  # fmt: skip


def context(run: Run) -> Context:
    """What the template shows: a dot an operation and network; accuracy against severity for each corruption."""
    metrics = run.metrics.get("robustness", {})
    operations = _operations(metrics)
    clean = {series: metrics.get(f"{prefix}top1") for series, prefix in _PREFIX.items()}
    drawn = {name: _curves(metrics, name, clean) for name in mapping(metrics.get("corruptions"))}
    curves = {name.replace("_", " "): lines for name, lines in drawn.items() if lines}
    if not operations and not curves:
        return None
    means = {series: metrics.get(f"{prefix}mean_corrupted_top1") for series, prefix in _PREFIX.items()}
    return {
        "columns": list(_PREFIX),
        "chart": _chart(operations) if operations else None,
        "trained": any(trained for _, trained, _ in operations),
        "without": [_NAMES.get(str(name), str(name)) for name in metrics.get("without_effect") or ()],
        "corruptions": _corruptions(curves),
        "means": [
            (series, clean[series], mean)
            for series, mean in means.items()
            if is_number(mean) and is_number(clean[series])
        ],
    }


def _operations(metrics: Mapping[str, Any]) -> list[Dots]:
    """The operations, those that the encoder ignores most first; in bold those that are in the recipe."""
    trained = metrics.get("in_recipe") or ()
    others = mapping(metrics.get("random_init_invariance"))
    found = []
    for operation, value in mapping(metrics.get("invariance")).items():
        if is_number(value):
            random = others.get(operation)
            values = {MARKS["random_init"]: float(random)} if is_number(random) else {}
            values[MARKS["encoder"]] = float(value)
            found.append((_NAMES.get(operation, operation), operation in trained, values))
    return sorted(found, key=lambda row: -row[2][MARKS["encoder"]])


def _chart(operations: list[Dots]) -> Figure:
    low = min(0.0, *(value for *_, values in operations for value in values.values()))
    title = "Invariance of the features to single operations"

    def draw(width: int) -> Markup:
        axis = plots.axis(low, 1.0, 6 if width > NARROW else 4)
        return plots.dots(operations, axis, width=width, title=title)

    return plots.figure(draw)


def _curves(metrics: Mapping[str, Any], name: str, clean: Mapping[str, Any]) -> list[Line]:
    """Accuracy against the severity of a corruption, 0 the clean image, for each network."""
    lines = []
    for series, prefix in reversed(_PREFIX.items()):
        scores = mapping(metrics.get(f"{prefix}corruptions")).get(name)
        if isinstance(scores, Mapping) and is_number(clean[series]):
            known = {int(s): v for s, v in scores.items() if is_number(v) and str(s).isdigit()}
            x, y = np.array(sorted({0: clean[series], **known}.items())).T
            lines.append(Line(style=MARKS[series], x=x, y=y, marks="circle"))
    return lines


def _corruptions(curves: Mapping[str, list[Line]]) -> list[Figure]:
    if not curves:
        return []
    tops = np.concatenate([line.y for lines in curves.values() for line in lines])
    x_axis, y_axis = charts.over(range(6)), charts.in_percent(tops, 4, margin=0.02)
    return [
        charts.small(Chart(lines, x_axis, y_axis, f"Accuracy against severity: {name}"), 150, name)
        for name, lines in curves.items()
    ]
