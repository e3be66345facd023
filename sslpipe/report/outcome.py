"""The part of the page on what came out: results, labels, map, neighbours, confusions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from sslpipe.report import plots, results
from sslpipe.report.config import Config
from sslpipe.report.parts import MARKS, WIDE, both, heads, legend, pairs, param, section, thumbnails
from sslpipe.report.results import NARROW_SPACE, SERIES, Row, integer, percent, points
from sslpipe.report.run import Efficiency, Run


def measured(run: Run, rows: list[Row]) -> str:
    """The result table: every protocol beside its baselines."""
    if not rows:
        return ""
    scored = [row for row in rows if row.skipped is None]
    if not scored:
        items = "".join(
            f"<li><b>{escape(row.title)}</b><span>{escape(row.skipped or '')}</span></li>" for row in rows
        )
        skipped = "<p>Every evaluation was skipped.</p>"
        return section("results", "What pretraining bought", skipped, f'<ol class="worst">{items}</ol>')
    values = [value for row in scored for value in row.top1.values()]
    low = max(0, math.floor((min(values, default=0.0) - 0.03) * 10) * 10) if values else 0
    ticks = [tick for tick in range(low, 101) if tick % (10 if 100 - low <= 40 else 20) == 0]
    scale = "".join(f'<span style="left:{_along(tick / 100, low):.1f}%">{tick}</span>' for tick in ticks)
    columns = [series for series in SERIES if any(series in row.top1 for row in scored)]
    head = heads(columns)
    body = "".join(_result_row(row, columns, low) for row in rows)
    table = (
        '<table class="results"><thead><tr><th scope="col">Top-1 accuracy, %</th>'
        f'<th class="plot" aria-hidden="true"><div class="scale">{scale}</div></th>{head}'
        f'<th scope="col">Gain</th></tr></thead><tbody>{body}</tbody></table>'
    )
    key = f'<div class="narrow">{legend(columns)}</div>' if columns else ""
    note = [
        "<p>Every row is one protocol, run the same way on the pretrained encoder and on its baselines. "
        "<em>Gain</em> is over the same network with random weights, in points.</p>"
    ]
    count = run.count("test")
    best = max((row.top1["encoder"] for row in scored if "encoder" in row.top1), default=None)
    if count and best is not None:
        error = results.standard_error(best, count)
        note.append(
            f"<p>On {integer(count)} test images, {percent(best)} has a standard error of "
            f"{100 * error:.1f} points.</p>"
        )
    if any(row.std for row in scored):
        note.append(
            "<p>\u00b1 is the standard deviation over draws of the labelled images and over seeds.</p>"
        )
    note.append(_without_duplicates(run))
    return section("results", "What pretraining bought", "".join(note), key + table + _protocols(run))


def _without_duplicates(run: Run) -> str:
    """What remains of the scores where test images that repeat training images are left out."""
    found = []
    images = None
    for stage, title in results.TITLES.items():
        others = run.metrics.get(stage, {}).get("without_duplicates")
        if isinstance(others, Mapping) and results.is_number(others.get("top1")):
            change = others["top1"] - run.metrics[stage]["top1"]
            found.append(f"{title} {percent(others['top1'])} ({points(change)})")
            images = others.get("test_images")
    if not found or not images:
        return ""
    return (
        f"<p>Some test images repeat training images. On the {integer(images)} that do not: "
        f"{escape(', '.join(found))}.</p>"
    )


def _result_row(row: Row, columns: Sequence[str], low: int) -> str:
    name = f'<th scope="row">{escape(row.title)}<small>{escape(row.condition)}</small></th>'
    if row.skipped is not None:
        name = f'<th scope="row">{escape(row.title)}</th>'
        reason = f'<td colspan="{len(columns) + 2}">Skipped: {escape(row.skipped)}</td>'
        return f'<tr class="skipped">{name}{reason}</tr>'
    best = max(row.top1.values())
    cells = []
    for series in columns:
        if series not in row.top1:
            cells.append(f'<td class="missing" data-label="{SERIES[series]}">\u2013</td>')
            continue
        value, std = row.top1[series], row.std.get(series)
        text = f"{100 * value:.1f}"
        text = f"<b>{text}</b>" if value == best else text
        spread = f"<small>\u00b1{NARROW_SPACE}{100 * std:.1f}</small>" if std is not None else ""
        cells.append(f'<td data-label="{SERIES[series]}">{text}{spread}</td>')
    gain = "" if row.gain is None else points(row.gain)
    style = "gain" if (row.gain or 0) >= 0 else "gain loss"
    return (
        f'<tr>{name}<td class="plot" aria-hidden="true">{_dots(row, low)}</td>{"".join(cells)}'
        f'<td class="{style}" data-label="Gain">{gain}</td></tr>'
    )


def _dots(row: Row, low: int) -> str:
    """The row as marks on a line, the stretch that pretraining won drawn strong."""
    parts = []
    if row.gain is not None:
        ends = sorted((_along(row.top1["random_init"], low), _along(row.top1["encoder"], low)))
        style = "won" if row.gain >= 0 else "won lost"
        parts.append(f'<i class="{style}" style="left:{ends[0]:.2f}%;width:{ends[1] - ends[0]:.2f}%"></i>')
    for series in reversed(list(SERIES)):
        if series in row.top1:
            parts.append(
                f'<i class="mark {MARKS[series]}" style="left:{_along(row.top1[series], low):.2f}%"></i>'
            )
    return f'<div class="track">{"".join(parts)}</div>'


def _along(fraction: float, low: int) -> float:
    return 100 * (100 * fraction - low) / (100 - low)


def _protocols(run: Run) -> str:
    items = []
    for stage, title in results.TITLES.items():
        protocol = run.metrics.get(stage, {}).get("protocol")
        if isinstance(protocol, Mapping) and protocol:
            items.append(f"<dt>{title}</dt><dd>{pairs(protocol)}</dd>")
    if not items:
        return ""
    return (
        f'<details><summary>How each was measured</summary><dl class="pairs">{"".join(items)}</dl></details>'
    )


def few_labels(run: Run, rows: list[Row]) -> str:
    """Accuracy against the number of labelled images."""
    found = run.efficiency or efficiency(run, rows)
    if len({point.labels for point in found}) < 2:
        return ""
    shown = [series for series in SERIES if any(point.series == series for point in found)]
    lines = [_efficiency_line(series, found) for series in reversed(shown)]
    note = (
        "<p>A linear probe on frozen features, trained with fewer and fewer labels. Top-1 in percent; "
        "the number of labels is on a logarithmic scale.</p>"
    )
    return section("labels", "With fewer labels", note, legend(shown) + efficiency_chart(lines, found))


def efficiency_chart(lines: Sequence[plots.Line], found: Sequence[Efficiency]) -> str:
    """Accuracy against the number of labels, on a logarithmic scale.

    Args:
        lines: to draw.
        found: their points, at least one, which the axes have to hold.
    """
    counts = sorted({point.labels for point in found})
    tops = [point.top1 for point in found]
    y_axis = plots.axis(max(0.0, min(tops) - 0.02), min(1.0, max(tops) + 0.02), 5, lambda v: f"{100 * v:.0f}")
    x_axis = plots.Axis(
        low=counts[0] / 1.18, high=counts[-1] * 1.18, log=True, ticks=[(n, integer(n)) for n in counts]
    )

    def draw(width: int) -> str:
        height = 340 if width == WIDE else 280
        return plots.line_chart(
            lines,
            x_axis,
            y_axis,
            width=width,
            height=height,
            x_label="labelled images",
            title="Accuracy of a linear probe against the number of labelled images",
        )

    return both(draw)


def efficiency(run: Run, rows: list[Row]) -> list[Efficiency]:
    """The same points from the table's rows, for a run without the CSV."""
    return [
        Efficiency(labels=labels, series=series, top1=top1, std=row.std.get(series))
        for row in rows
        if row.stage == "linear" and (labels := row.labels or run.count("train"))
        for series, top1 in row.top1.items()
    ]


def _efficiency_line(series: str, found: list[Efficiency]) -> plots.Line:
    mine = sorted((point for point in found if point.series == series), key=lambda point: point.labels)
    return plots.Line(
        style=MARKS[series],
        x=np.array([point.labels for point in mine]),
        y=np.array([point.top1 for point in mine]),
        spread=np.array([point.std or 0.0 for point in mine]),
        marks="diamond" if series == "raw_pixel" else "circle",
        values=(lambda value: f"{100 * value:.1f}") if series == "encoder" else None,
    )


def feature_map(run: Run, config: Config) -> str:
    """Test images laid out by their features, beside the same for the baselines."""
    from sslpipe.report.embedding import align, layouts

    if not config.map_points or not run.features:
        return ""
    count = len(next(iter(run.features.values())))
    seed = int(param(run, "seed") or 0)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[: config.map_points])
    labels = run.labels[chosen] if run.labels is not None else np.full(len(chosen), -1)
    placed = layouts({series: x[chosen] for series, x in run.features.items() if len(x) == count}, seed=seed)
    first = placed.get("encoder")
    if first is None:
        if "encoder" not in placed or count < 5:
            return ""
        note = (
            "<p>The features of all test images are the same, or not finite: the encoder has collapsed.</p>"
        )
        return section(
            "map", "Map of the test images", note, '<p class="empty">There is nothing to lay out.</p>'
        )
    names = {int(label): run.class_name(int(label)) or "" for label in np.unique(labels) if label >= 0}
    brief = max(map(len, names.values()), default=0) <= 3
    figures = []
    for series, place in placed.items():
        if place is None:
            continue
        main = series == "encoder"
        place = place if main else align(place, first)
        svg = plots.scatter(
            place,
            labels,
            names,
            size=540 if main else 260,
            radius=3.2 if main else 1.9,
            text=(17 if brief else 14) if main else (12 if brief else 0),
            title=f"Map of test images: {SERIES[series].lower()}",
        )
        title = f'<figcaption><i class="mark {MARKS[series]}"></i>{SERIES[series]}</figcaption>'
        figures.append(f'<figure class="{MARKS[series]}">{title}{svg}</figure>')
    what = (
        "coloured by their true class, which pretraining never saw"
        if names
        else "without labels, so of one colour"
    )
    note = (
        f"<p>{integer(len(chosen))} test images laid out by t-SNE so that images with similar features are "
        f"neighbours, {what}. Distances between far clusters mean little.</p>"
    )
    key = ""
    if names and not brief and len(names) <= 40:
        items = "".join(
            f'<li class="k{label}"><i></i>{escape(name)}</li>' for label, name in sorted(names.items())
        )
        key = f'<ul class="legend classes">{items}</ul>'
    hint, data = _map_pictures(run, chosen, labels)
    body = f'<style>{_class_colours(names)}</style><div class="maps"{data}>{"".join(figures)}</div>{key}'
    return section("map", "Map of the test images", note + hint, body)


def _map_pictures(run: Run, chosen: np.ndarray, labels: np.ndarray) -> tuple[str, str]:
    """The pictures behind the map's points: a hint for the reader, and attributes for the script."""
    from sslpipe.report.pictures import data_uri, sprite

    places = run.index[chosen] if run.index is not None else chosen
    images = thumbnails(run, "test", places.tolist(), 40 if len(chosen) <= 1500 else 28)
    if images is None:
        return "", ""
    side = max(max(image.size) for image in images[0])
    sheet, columns = sprite(images[0], side)
    said = json.dumps([run.class_name(int(label)) or "" for label in labels], ensure_ascii=False)
    data = (
        f' data-sprite="{data_uri(sheet)}" data-columns="{columns}" data-side="{side}" '
        f'data-names="{escape(said)}"'
    )
    return (
        '<p class="hint">Point at a dot, or choose a map and use the arrow keys, to see its image, here and in the '
        "other layouts.</p>",
        data,
    )


def _class_colours(names: Mapping[int, str]) -> str:
    # Ten colours told apart on white and on black; beyond ten, hues a golden angle apart.
    palette = (
        "#4269d0",
        "#e2a90c",
        "#ff725c",
        "#55b9a4",
        "#3ca951",
        "#ff8ab7",
        "#a463f2",
        "#83aef3",
        "#9c6b4e",
        "#8f949e",
    )
    rules = []
    for order, label in enumerate(sorted(names)):
        colour = (
            palette[order] if len(names) <= len(palette) else f"oklch(.68 .15 {order * 137.508 % 360:.0f})"
        )
        rules.append(f".k{label}{{--k:{colour}}}")
    return "".join(rules)


def confusion(run: Run) -> str:
    """What k-NN takes for what."""
    if not run.confusion:
        return ""
    seen = {name for pair in run.confusion for name in pair}
    names = [name for name in run.classes if name in seen] + sorted(seen - set(run.classes), key=_natural)
    place = {name: n for n, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    for (actual, predicted), number in run.confusion.items():
        matrix[place[actual], place[predicted]] += number
    errors = int(matrix.sum() - np.trace(matrix))
    note = (
        f"<p>k-NN on the pretrained features: {integer(errors)} of {integer(matrix.sum())} test images are "
        "taken for another class.</p>"
    )
    pairs = _worst_pairs(matrix, names)
    if len(names) > 24:
        return section("confusion", "What is confused", note, pairs or '<p class="empty">No errors.</p>')

    def draw(width: int) -> str:
        return plots.confusion(
            matrix, names, width=min(width, 560), title="Confusion matrix of k-NN on the test images"
        )

    side = f"<div><h3>Most often</h3>{pairs}</div>" if pairs else ""
    return section(
        "confusion", "What is confused", note, f'<div class="matrix"><div>{both(draw)}</div>{side}</div>'
    )


def _worst_pairs(matrix: np.ndarray, names: Sequence[str], limit: int = 6) -> str:
    off = matrix * (1 - np.eye(len(names), dtype=np.int64))
    order = [divmod(int(n), len(names)) for n in np.argsort(-off, axis=None, kind="stable")[:limit]]
    items = [
        f"<li><span><b>{escape(names[r])}</b> taken for <b>{escape(names[c])}</b></span>"
        f"<span>{off[r, c]}</span></li>"
        for r, c in order
        if off[r, c]
    ]
    return f'<ol class="worst">{"".join(items)}</ol>' if items else ""


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in their own order before words."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
