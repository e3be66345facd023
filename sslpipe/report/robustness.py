"""The part of the page on what the features ignore, and on accuracy under corruptions."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from sslpipe.report import plots
from sslpipe.report.parts import MARKS, NARROW, both, legend, section
from sslpipe.report.results import PREFIX, is_number, percent
from sslpipe.report.run import Run

_PREFIX = {series: PREFIX[series] for series in ("encoder", "random_init")}
_NAMES = {
    "crop": "crop", "hflip": "mirrored", "vflip": "upside down", "rotation": "rotation",
    "quarter_turns": "quarter turn", "brightness": "brightness", "contrast": "contrast", "saturation": "saturation",
    "hue": "hue", "grey": "no colour", "blur": "blur", "solarize": "solarized",
}  # fmt: skip


def ignored(run: Run) -> str:
    """A dot an operation and network; under it, accuracy against severity for each corruption."""
    metrics = run.metrics.get("robustness", {})
    rows = _rows(metrics)
    corrupted = _corrupted(metrics)
    if not rows and not corrupted:
        return ""
    chart = legend(list(_PREFIX)) + both(lambda width: _dots(rows, width)) if rows else ""
    note = ""
    if rows:
        note = (
            "<p>How much stays of an image\u2019s features when only this is done to it. 1: the features ignore it; "
            "0: it is as good as another image.</p>"
        )
        if any(bold for _, bold, _ in rows):
            note += "<p><em>Bold</em>: the method\u2019s own views have it.</p>"
    without = [_NAMES.get(str(name), str(name)) for name in metrics.get("without_effect") or ()]
    if without:
        note += f"<p>Nothing to see on these images: {escape(', '.join(without))}.</p>"
    return section("robustness", "What the features ignore", note, chart + corrupted)


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, bool, dict[str, float]]]:
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


def _dots(rows: list[tuple[str, bool, dict[str, float]]], width: int) -> str:
    low = min(0.0, *(value for *_, values in rows for value in values.values()))
    axis = plots.axis(low, 1.0, 6 if width > NARROW else 4)
    return plots.dots(rows, axis, width=width, title="Invariance of the features to single operations")


def _corrupted(metrics: Mapping[str, Any]) -> str:
    """Small charts of accuracy against severity, 0 the clean image."""
    clean = {series: metrics.get(f"{prefix}top1") for series, prefix in _PREFIX.items()}
    names = list(_mapping(metrics, "corruptions"))
    curves = {name: _curves(metrics, name, clean) for name in names}
    curves = {name: lines for name, lines in curves.items() if lines}
    if not curves:
        return ""
    tops = np.concatenate([line.y for lines in curves.values() for line in lines])
    y_axis = plots.axis(
        max(0.0, float(np.nanmin(tops)) - 0.02),
        min(1.0, float(np.nanmax(tops)) + 0.02),
        4,
        lambda v: f"{100 * v:.0f}",
    )
    charts = "".join(_small(name, lines, y_axis) for name, lines in curves.items())
    words = []
    for series, prefix in _PREFIX.items():
        mean = metrics.get(f"{prefix}mean_corrupted_top1")
        before = clean[series]
        if is_number(mean) and is_number(before):
            who = "the encoder" if series == "encoder" else "random weights"
            words.append(f"{who} {percent(before)} on clean images, {percent(mean)} on corrupted ones")
    said = (
        "Top-1 of a k-NN whose training images are clean, in percent, against the severity of what is done to the test "
        f"images; 0 is clean. On average: {'; '.join(words)}."
    )
    head = f'<h3>Under corruption</h3><p class="note">{said}</p>{legend(list(_PREFIX))}'
    return f'{head}<div class="smalls">{charts}</div>'


def _curves(metrics: Mapping[str, Any], name: str, clean: Mapping[str, Any]) -> list[plots.Line]:
    lines = []
    for series, prefix in reversed(_PREFIX.items()):
        scores = _mapping(metrics, f"{prefix}corruptions").get(name)
        if isinstance(scores, Mapping) and is_number(clean[series]):
            points = {
                0: clean[series],
                **{int(s): v for s, v in scores.items() if is_number(v) and str(s).isdigit()},
            }
            x = np.array(sorted(points))
            y = np.array([points[s] for s in sorted(points)])
            lines.append(plots.Line(style=MARKS[series], x=x, y=y, marks="circle"))
    return lines


def _small(name: str, lines: list[plots.Line], y_axis: plots.Axis) -> str:
    title = name.replace("_", " ")
    x_axis = plots.Axis(low=0, high=5, ticks=[(n, str(n)) for n in range(6)])

    def draw(width: int) -> str:
        return plots.line_chart(
            lines, x_axis, y_axis, width=width, height=150, title=f"Accuracy against severity: {title}"
        )

    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="wide">{draw(250)}</div>'
        f'<div class="narrow">{draw(NARROW)}</div></figure>'
    )


def _mapping(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = metrics.get(name)
    return value if isinstance(value, Mapping) else {}
