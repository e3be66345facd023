"""The page of several runs side by side: no network, light and dark, desktop and phone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from sslpipe.compare import compare
from sslpipe.compare.compare import Compared
from sslpipe.compare.difference import Difference
from sslpipe.core import scratch
from sslpipe.report import making, plots, results
from sslpipe.report.outcome import efficiency, efficiency_chart
from sslpipe.report.parts import WIDE, both, document, duration, section, text, watt_hours
from sslpipe.report.results import integer, is_number, points
from sslpipe.report.run import energy, seconds

NONE = "\u2013"  # in a cell without a number
_COLOURS = ("#4269d0", "#e2a90c", "#ff725c", "#3ca951", "#a463f2", "#55b9a4", "#ff8ab7", "#9c6b4e")


def build(runs: Sequence[Compared], path: Path) -> Path:
    """Write the page.

    Raises:
        UserError: it cannot be written.
    """
    sections: tuple[Callable[[Sequence[Compared]], str], ...] = (
        _scores,
        _others,
        _label_efficiency,
        _loss,
        lambda each: _watched(each, "knn_top1", "looks", "k-NN between epochs"),
        _settings,
        _cost,
        _lineage,
    )
    body = "".join(make(runs) for make in sections)
    scratch.atomic_write(path, _page(runs, f"{_header(runs)}<main>{body}</main>"))
    return path


def _page(runs: Sequence[Compared], body: str) -> str:
    colours = "".join(
        f".line.run{n}{{--c:{colour}}}.mark.run{n}{{background:{colour}}}"
        for n, colour in enumerate(_COLOURS[: len(runs)])
    )
    title = f"{' and '.join(each.name for each in runs)}: sslpipe comparison"
    return document(title, body, style=colours)


def _header(runs: Sequence[Compared]) -> str:
    found = compare.differences(runs)
    sentences = [_verdict(runs, number, found) for number in range(1, min(len(runs), 4))]
    title = f"{' against '.join(each.name for each in runs)}" if len(runs) < 4 else f"{len(runs)} runs"
    warned = "".join(f"<p>{escape(word)}</p>" for word in compare.warnings(runs))
    return (
        f'<header><p class="eyebrow"><b>sslpipe</b> comparison</p><h1>{escape(title)}</h1>'
        f'<p class="dek">{escape(" ".join(filter(None, sentences)))}</p>'
        f'<div class="note">{warned}</div></header>'
    )


def _verdict(
    runs: Sequence[Compared], number: int, differences: Mapping[tuple[int, compare.Key], Difference]
) -> str:
    """One sentence on the evaluation that asks most of the encoder, for a run beside the first."""
    first, other = runs[0], runs[number]
    shared = {key: row for key, row in other.rows.items() if key in first.rows}
    row = results.most_telling(list(shared.values()))
    key = next((key for key, value in shared.items() if value is row), None)
    found = None if key is None else differences.get((number, key))
    if row is None or found is None:
        return ""
    what = f"{row.title}, {row.condition}"
    if not found.measurable:
        return (
            f"{other.name} and {first.name} do not differ measurably ({what}: {points(found.value)} points)."
        )
    verb = "ahead of" if found.value > 0 else "behind"
    return f"{other.name} is {abs(100 * found.value):.1f} points {verb} {first.name} ({what})."


def _legend(runs: Sequence[Compared]) -> str:
    items = "".join(f'<li><i class="mark run{n}"></i>{escape(each.name)}</li>' for n, each in enumerate(runs))
    return f'<ul class="legend">{items}</ul>'


def _head(runs: Sequence[Compared], first: str) -> str:
    cells = "".join(
        f'<th scope="col"><i class="mark run{n}"></i>{escape(each.name)}</th>' for n, each in enumerate(runs)
    )
    return f'<thead><tr><th scope="col">{first}</th>{cells}</tr></thead>'


def _table(runs: Sequence[Compared], first: str, rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A row for each name (HTML), a cell (HTML) for each run."""
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(
            f'<td data-label="{escape(each.name)}">{cell}</td>'
            for each, cell in zip(runs, cells, strict=True)
        )
        + "</tr>"
        for name, cells in rows
    )
    return f'<table class="results">{_head(runs, first)}<tbody>{body}</tbody></table>'


def _scores(runs: Sequence[Compared]) -> str:
    """The table of all evaluations, each run's difference to the first below its score."""
    body, found = [], compare.differences(runs)
    for key in compare.keys(runs):
        rows = [each.rows.get(key) for each in runs]
        known = next(row for row in rows if row is not None)
        scores = [row.top1.get("encoder") if row else None for row in rows]
        best = max((score for score in scores if score is not None), default=None)
        cells = []
        for number, score in enumerate(scores):
            shown = NONE if score is None else f"{100 * score:.1f}"
            shown = f"<b>{shown}</b>" if score is not None and score == best else shown
            cells.append(shown + _beside(found.get((number, key))))
        body.append((f"{escape(known.title)}<small>{escape(known.condition)}</small>", cells))
    note = (
        f"<p>Top-1 on test, of the pretrained encoder. Below each score its difference to {escape(runs[0].name)} in "
        "points, with the 95\u202f% interval of each; grey where chance alone gives one as large, among all "
        f"{len(found)} of this table, in more than one of twenty (Holm).</p>"
        "<p>Where both were tested on the same images, only images that one tells and the other does not "
        "count: McNemar\u2019s exact test and the interval that belongs to it. Otherwise the errors of test images and "
        "of drawn labels are added, which errs on the safe side.</p>"
    )
    return section("scores", "Which is better", note, _table(runs, "Top-1 accuracy, %", body))


def _beside(found: Difference | None) -> str:
    if found is None:
        return ""
    style = "" if not found.measurable else ' class="gain"' if found.value > 0 else ' class="loss"'
    said = f"{points(found.value)} <span>{compare.interval(found)}</span>"
    return f'<small{style} title="{escape(found.how)}">{said}</small>'


def _others(runs: Sequence[Compared]) -> str:
    """What is measured otherwise than by top-1 on the test images."""
    rows = [
        (
            escape(title),
            [
                NONE
                if cell is None
                else f"{cell[0]:.1f}" + ("" if cell[1] is None else f"<small>\u00b1 {cell[1]:.1f}</small>")
                for cell in cells
            ],
        )
        for title, cells in compare.others(runs).items()
    ]
    if not rows:
        return ""
    note = (
        "<p>Without intervals: only the deviation over seeds is known, where <code>evaluate.seeds</code> asked for "
        "several.</p>"
    )
    return section("others", "Other tasks", note, _table(runs, "Encoder", rows))


def _label_efficiency(runs: Sequence[Compared]) -> str:
    """Accuracy of the linear probe against the number of labels, the runs over each other."""
    lines, shown = [], []
    for number, each in enumerate(runs):
        found = each.run.efficiency or efficiency(each.run, list(each.rows.values()))
        mine = sorted((p for p in found if p.series == "encoder"), key=lambda p: p.labels)
        if len(mine) < 2:
            continue
        shown += mine
        lines.append(
            plots.Line(
                style=f"run{number}",
                x=np.array([point.labels for point in mine]),
                y=np.array([point.top1 for point in mine]),
                spread=np.array([point.std or 0.0 for point in mine]),
                marks="circle",
            )
        )
    if not lines:
        return ""
    note = "<p>A linear probe on frozen features, with fewer and fewer labels; the bars are the spread over draws.</p>"
    return section("labels", "With fewer labels", note, _legend(runs) + efficiency_chart(lines, shown))


def _watched(runs: Sequence[Compared], column: str, name: str, title: str) -> str:
    """A number of the looks between epochs, the runs over each other."""
    lines = []
    for number, each in enumerate(runs):
        x, y = (each.run.watched.get(key, np.empty(0)) for key in ("epoch", column))
        if len(x) == len(y) > 1 and np.isfinite(y).all():
            lines.append(plots.Line(style=f"run{number}", x=x, y=y, marks="circle"))
    if not lines:
        return ""
    note = (
        "<p>Top-1 on training images that ask others of the training split, in percent: a look at how fast features "
        "become useful, not a test.</p>"
    )
    chart = _over_epochs(lines, title, lambda v: f"{100 * v:.0f}")
    return section(name, title, note, _legend(runs) + chart)


def _loss(runs: Sequence[Compared]) -> str:
    """The training losses over each other, where all runs are of one method."""
    methods = {each.run.params.get("pretrain.method") for each in runs}
    lines = []
    for number, each in enumerate(runs):
        loss = each.run.curves.get("loss", np.empty(0))
        if len(loss) < 2 or not np.isfinite(loss).all():
            continue
        x, label = making.clock(each.run.curves)
        if label == "epoch":
            x, y = plots.thin(x, plots.smooth(loss, max(1, len(loss) // 40)), 400)
            lines.append(plots.Line(style=f"run{number}", x=x, y=y))
    if len(methods) > 1 or len(lines) < 2:
        return ""
    note = "<p>Moving means, since all runs are of one method; settings may make losses differ by themselves.</p>"
    return section("loss", "Pretraining loss", note, _legend(runs) + _over_epochs(lines, "Pretraining loss"))


def _over_epochs(lines: Sequence[plots.Line], title: str, shown: Callable[[float], str] | None = None) -> str:
    """A chart of lines over epochs; `shown` writes the ticks of y."""
    last = max(float(line.x[-1]) for line in lines)
    ticks = [tick for tick in plots.nice_ticks(0, last, 6) if tick <= last]
    x_axis = plots.Axis(low=0, high=last, ticks=list(zip(ticks, plots.plain(ticks), strict=True)))
    ends = [float(end(line.y)) for line in lines for end in (np.min, np.max)]
    y_axis = plots.axis(min(ends), max(ends), 5, shown) if shown else plots.axis(min(ends), max(ends), 5)

    def draw(width: int) -> str:
        height = 300 if width == WIDE else 240
        return plots.line_chart(
            lines, x_axis, y_axis, width=width, height=height, x_label="epoch", title=title
        )

    return both(draw)


def _settings(runs: Sequence[Compared]) -> str:
    """The settings in which the runs differ."""
    found = compare.settings_that_differ(runs)
    if not found:
        return section("settings", "Settings", "<p>All settings are the same.</p>", "")
    rows = [
        (f"<code>{escape(name)}</code>", [NONE if value is None else escape(text(value)) for value in values])
        for name, values in found.items()
    ]
    note = "<p>Only what differs. A dash: the run\u2019s file does not name it, so the default holds.</p>"
    return section("settings", "Settings that differ", note, _table(runs, "Setting", rows))


def _cost(runs: Sequence[Compared]) -> str:
    """Seconds a stage, and images a second in pretraining."""
    stages = list(dict.fromkeys(str(stage["stage"]) for each in runs for stage in each.run.stages))
    rows = []
    for name in stages:
        took = [seconds(each.run.stage(name)) for each in runs]
        rows.append((escape(name), [NONE if s is None else duration(s) for s in took]))
    sums = [sum(filter(None, map(seconds, each.run.stages))) for each in runs]
    rows.append(("all stages", [duration(total) for total in sums]))
    used = [[e for stage in each.run.stages if (e := energy(stage)) is not None] for each in runs]
    if any(used):
        rows.append(("energy, where counted", [watt_hours(sum(some)) if some else NONE for some in used]))
    rates = [each.run.metrics.get("pretrain", {}).get("images_per_second") for each in runs]
    rows.append(("images a second in pretraining", [integer(r) if is_number(r) else NONE for r in rates]))
    note = (
        "<p>Start-up included. A stage that DVC took from its cache shows the time of the run that made it, perhaps on "
        "another machine.</p>"
    )
    return section("cost", "What it took", note, _table(runs, "Stage", rows))


def _lineage(runs: Sequence[Compared]) -> str:
    """Digests of data, code and encoder."""
    digests = {
        "Shards": [each.run.manifest.get("digest") for each in runs],
        "Code": [(each.run.stage("pretrain").get("git") or {}).get("commit") for each in runs],
        "Experiment": [each.run.stage("pretrain").get("key") for each in runs],
        "Encoder": [each.run.encoder.get("weights_sha256") for each in runs],
    }
    rows = [
        (name, [f"<code>{escape(str(value)[:12])}</code>" if value else NONE for value in values])
        for name, values in digests.items()
        if any(values)
    ]
    return section(
        "lineage", "Where they come from", "<p>Equal digests, equal content.</p>", _table(runs, "", rows)
    )
