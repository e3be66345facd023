"""The page of several runs side by side: no network, light and dark, desktop and phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslpipe.compare import compare
from sslpipe.compare.compare import Compared
from sslpipe.report import charts, plots, rendering, results
from sslpipe.report.plots import Axis, Chart, Figure, Line
from sslpipe.report.run import Context, energy, seconds
from sslpipe.report.words import duration, integer, is_number, isolated, setting, watt_hours

_COLOURS = ("#4269d0", "#e2a90c", "#ff725c", "#3ca951", "#a463f2", "#55b9a4", "#ff8ab7", "#9c6b4e")
_TOLD = 3  # runs beside which the heading names each and says how it does
Runs = Sequence[Compared]


def build(runs: Runs, path: Path) -> Path:
    """Write the page, or raise a UserError that says why it cannot be written."""
    templates = rendering.environment("sslpipe.compare")
    names = [each.name for each in runs]
    templates.globals["runs"] = names
    shown = [
        rendering.part(templates, name, context)
        for name, make in _SECTIONS.items()
        if (context := make(runs)) is not None
    ]
    html = templates.get_template("comparison.html").render(
        sections=shown,
        title=" and ".join(map(isolated, names)),
        told=len(runs) <= _TOLD,
        verdicts=_verdicts(runs),
        warnings=compare.warnings(runs),
        style=rendering.static("page.css"),
        colours=_COLOURS[: len(runs)],
        script=None,
    )
    return rendering.write(path, html)


def _verdicts(runs: Runs) -> list[dict[str, Any]]:
    """For the first runs, how each does beside the very first in the evaluation that asks most of the encoder."""
    found, said = compare.differences(runs), []
    for number, other in enumerate(runs[: _TOLD + 1]):
        shared = {key: row for key, row in other.rows.items() if key in runs[0].rows}
        row = results.most_telling(list(shared.values()))
        beside = found.get((number, (row.stage, row.labels))) if row else None
        if row is not None and beside is not None:
            what = f"{row.title}, {row.condition}"
            said.append({"other": other.name, "what": what, "difference": beside})
    return said


def _scores(runs: Runs) -> dict[str, Any]:
    """The table of all evaluations, each run's difference to the first below its score."""
    found, shown = compare.differences(runs), []
    for key in compare.keys(runs):
        rows = [each.rows.get(key) for each in runs]
        scores = [row.top1.get("encoder") if row else None for row in rows]
        shown.append(
            {
                "row": next(row for row in rows if row is not None),
                "best": max((score for score in scores if score is not None), default=None),
                "cells": [(score, found.get((number, key))) for number, score in enumerate(scores)],
            }
        )
    return {"shown": shown, "count": len(found), "interval": compare.interval}


def _others(runs: Runs) -> Context:
    """What is measured otherwise than by top-1 on the test images."""
    found = compare.others(runs)
    return {"rows": found} if found else None


def _labels(runs: Runs) -> Context:
    """Accuracy of the linear probe against the number of labels, the runs over each other."""
    lines = []
    for number, each in enumerate(runs):
        mine = [point for point in each.run.efficiency if point.series == "encoder"]
        if len(mine) > 1:
            lines.append(charts.efficiency_line(mine, f"run{number}"))
    return {"chart": charts.efficiency_chart(lines)} if lines else None


def _looks(runs: Runs) -> Context:
    """The k-NN that is asked between epochs, the runs over each other."""
    lines = []
    for number, each in enumerate(runs):
        x, y = (each.run.watched.get(key, np.empty(0)) for key in ("epoch", "knn_top1"))
        if len(x) == len(y) > 1 and np.isfinite(y).all():
            lines.append(Line(style=f"run{number}", x=x, y=y, marks="circle"))
    if not lines:
        return None
    y_axis = charts.in_percent(np.concatenate([line.y for line in lines]), 5)
    return {"chart": _over_epochs(lines, y_axis, "k-NN between epochs")}


def _loss(runs: Runs) -> Context:
    """The training losses over each other, where all runs are of one method."""
    lines = []
    for number, each in enumerate(runs):
        loss = each.run.curves.get("loss", np.empty(0))
        if len(loss) < 2 or not np.isfinite(loss).all():
            continue
        x, label = charts.clock(each.run.curves)
        if label == "epoch":
            x, y = plots.thin(x, plots.smooth(loss, max(1, len(loss) // 40)), 400)
            lines.append(Line(style=f"run{number}", x=x, y=y))
    if len({each.run.params.get("pretrain.method") for each in runs}) > 1 or len(lines) < 2:
        return None
    values = np.concatenate([line.y for line in lines])
    y_axis = plots.axis(float(values.min()), float(values.max()), 5)
    return {"chart": _over_epochs(lines, y_axis, "Pretraining loss")}


def _over_epochs(lines: Sequence[Line], y_axis: Axis, title: str) -> Figure:
    last = max(float(line.x[-1]) for line in lines)
    return charts.wide(Chart(lines, charts.over((0, last)), y_axis, title, "epoch"))


def _settings(runs: Runs) -> dict[str, Any]:
    """The settings in which the runs differ."""
    found = compare.settings_that_differ(runs)
    return {"rows": [(name, _written(setting, values)) for name, values in found.items()]}


def _cost(runs: Runs) -> dict[str, Any]:
    """Seconds a stage, energy, and images a second in pretraining."""
    stages = dict.fromkeys(str(stage["stage"]) for each in runs for stage in each.run.stages)
    took = [(name, [seconds(each.run.stage(name)) for each in runs]) for name in stages]
    took.append(("all stages", [sum(filter(None, map(seconds, each.run.stages))) for each in runs]))
    rows = [(name, _written(duration, values)) for name, values in took]
    counted = [[e for stage in each.run.stages if (e := energy(stage)) is not None] for each in runs]
    if any(counted):
        used = [sum(some) if some else None for some in counted]
        rows.append(("energy, where counted", _written(watt_hours, used)))
    rates = [each.run.metrics.get("pretrain", {}).get("images_per_second") for each in runs]
    known = [rate if is_number(rate) else None for rate in rates]
    rows.append(("images a second in pretraining", _written(integer, known)))
    return {"rows": rows}


def _written(write: Callable[[Any], str], values: Sequence[Any]) -> list[str | None]:
    return [None if value is None else write(value) for value in values]


def _lineage(runs: Runs) -> dict[str, Any]:
    """Digests of data, code and encoder."""
    digests = {
        "Shards": [each.run.manifest.get("digest") for each in runs],
        "Code": [(each.run.stage("pretrain").get("git") or {}).get("commit") for each in runs],
        "Experiment": [each.run.stage("pretrain").get("key") for each in runs],
        "Encoder": [each.run.encoder.get("weights_sha256") for each in runs],
    }
    known = {name: values for name, values in digests.items() if any(values)}
    return {"rows": [(name, [str(v)[:12] if v else None for v in values]) for name, values in known.items()]}


#: The page's sections in order: each has a template of its name, and is left out where its function gives None.
_SECTIONS: dict[str, Callable[[Runs], Context]] = {
    "scores": _scores, "others": _others, "labels": _labels, "loss": _loss, "looks": _looks,
    "settings": _settings, "cost": _cost, "lineage": _lineage,
}  # fmt: skip
