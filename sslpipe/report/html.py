"""One self-contained page of what a run came to: no network, light and dark, desktop and phone.

The page is a function of the run's files and settings: built twice, it is the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from sslpipe.core import scratch
from sslpipe.report import dense, diagnostics, making, nearest, origin, outcome, results, robustness
from sslpipe.report.config import Config
from sslpipe.report.parts import document, duration, method_name, param
from sslpipe.report.results import Row, integer, is_number, percent
from sslpipe.report.run import Run, read, seconds


def build(directory: str | Path, params: Mapping[str, Any], config: Config | None = None) -> Path:
    """Write `report/index.html` from the files of a run.

    Parts whose files are missing are left out; a file that is there but cannot be read is named on the page.

    Args:
        directory: where `data/`, `metrics/`, `plots/`, `models/` and `runs/` are.
        params: resolved settings, flat: {"pretrain.method": "simclr", ...}.
        config: how much to show.

    Returns:
        The page's path.

    Raises:
        UserError: the page cannot be written.
    """
    config = config or Config()
    run = read(directory, params)
    rows = results.rows(run.metrics)
    sections: tuple[Callable[[], str], ...] = (
        lambda: outcome.measured(run, rows),
        lambda: outcome.few_labels(run, rows),
        lambda: outcome.feature_map(run, config),
        lambda: nearest.nearest(run, config),
        lambda: outcome.confusion(run),
        lambda: diagnostics.geometry(run),
        lambda: robustness.ignored(run),
        lambda: dense.another_set(run),
        lambda: dense.segmentation(run),
        lambda: dense.detection(run),
        lambda: making.views(run),
        lambda: making.training(run),
        lambda: making.pictures(run),
        lambda: making.patches(run),
        lambda: origin.data(run),
        lambda: origin.times(run),
        lambda: origin.provenance(run),
    )
    body = "".join(make() for make in sections)
    path = Path(directory) / "report" / "index.html"
    # The header comes last: parts may have found files that cannot be read.
    scratch.atomic_write(path, _page(run, _header(run, rows) + "<main>" + body + "</main>" + _problems(run)))
    return path


def _page(run: Run, body: str) -> str:
    script = files("sslpipe.report").joinpath("page.js").read_text(encoding="utf-8")
    title = " on ".join(str(part) for part in (method_name(run), param(run, "data.source")) if part)
    return document(f"{title}: sslpipe report" if title else "sslpipe report", body, script=script)


def _header(run: Run, rows: list[Row]) -> str:
    method, source = method_name(run), param(run, "data.source")
    eyebrow = " · ".join(escape(str(part)) for part in (method, source, _seed(run)) if part)
    title = results.headline(rows, method or "Self-supervised", run.count("test"))
    if title is None:
        ran = f"{method or 'Self-supervised'} pretraining ran"
        if "pretrain" not in run.metrics:
            title = "Nothing to report yet."
        elif rows and all(row.skipped is not None for row in rows):
            title = f"{ran}; its evaluations were skipped."
        else:
            title = f"{ran}; what it bought has not been measured."
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in _facts(run) if value
    )
    dek = _dek(run, rows)
    return (
        f'<header><p class="eyebrow"><b>sslpipe</b> {eyebrow}</p><h1>{_emphasised(title)}</h1>'
        + (f'<p class="dek">{escape(dek)}</p>' if dek else "")
        + (f'<dl class="facts">{facts}</dl>' if facts else "")
        + "</header>"
    )


def _emphasised(title: str) -> str:
    """The headline with the number it ends on in the encoder's colour, where that is a gain."""
    start, found, end = escape(title).rpartition(" to ")
    return f"{start}{found}<em>{end.rstrip('.')}</em>." if found and " lifts " in start else escape(title)


def _dek(run: Run, rows: list[Row]) -> str:
    sentences = []
    row = results.most_telling(rows)
    if row is not None and "raw_pixel" in row.top1:
        pixels, encoder = row.top1["raw_pixel"], row.top1["encoder"]
        verb = "still does better:" if pixels > encoder else "reaches"
        sentences.append(
            f"The same probe on raw pixels {verb} {percent(pixels)}."
            if row.stage == "linear"
            else f"On raw pixels, {row.title} {verb} {percent(pixels)}."
        )
    pretrain = run.metrics.get("pretrain", {})
    count, epochs, took = run.count("train"), pretrain.get("epochs"), pretrain.get("seconds")
    if count and is_number(epochs):
        span = f", in {duration(took)}" if is_number(took) else ""
        word = "epoch" if epochs == 1 else "epochs"
        sentences.append(
            f"The encoder saw {integer(count)} images, no labels, for {integer(epochs)} {word}{span}."
        )
    return " ".join(sentences)


def _facts(run: Run) -> list[tuple[str, str]]:
    pretrain = run.metrics.get("pretrain", {})
    dim, resolution = run.encoder.get("dim"), run.manifest.get("resolution")
    splits = {split: n for split in ("train", "test") if (n := run.count(split)) is not None}
    sizes = " + ".join(splits) + (f", up to {resolution} px" if resolution else "")
    total = sum(filter(None, (seconds(stage) for stage in run.stages)))
    rate, steps = pretrain.get("images_per_second"), pretrain.get("steps")
    git = (run.stage("pretrain") or (run.stages[0] if run.stages else {})).get("git") or {}
    commit = str(git.get("commit") or "")[:8]
    started = [stage["started"] for stage in run.stages if is_number(stage.get("started"))]
    backbone = run.encoder.get("name") or param(run, "pretrain.backbone")
    return [
        ("Backbone", _two(backbone, f"{integer(dim)} features" if is_number(dim) else "")),
        ("Images", _two(" + ".join(map(integer, splits.values())), sizes if splits else "")),
        (
            "Pretraining",
            _two(
                f"{integer(steps)} steps" if is_number(steps) else "",
                f"{integer(rate)} images/s" if is_number(rate) else "",
            ),
        ),
        ("All stages", _two(duration(total) if total else "", _device(run))),
        ("Code", _two(commit, "with local changes" if git.get("dirty") else "")),
        ("Started", _two(*_moment(min(started)))) if started else ("Started", ""),
    ]


def _two(first: Any, second: Any = "") -> str:
    if not first:
        return escape(str(second or ""))
    return escape(str(first)) + (f"<small>{escape(str(second))}</small>" if second else "")


def _problems(run: Run) -> str:
    if not run.problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in run.problems)
    return f'<aside class="problems"><h2>Not shown</h2><ul>{items}</ul></aside>'


def _seed(run: Run) -> str:
    seed = param(run, "seed")
    return "" if seed is None else f"seed {seed}"


def _moment(milliseconds: float) -> tuple[str, str]:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment.day} {moment:%B %Y}", f"{moment:%H:%M} UTC"


def _device(run: Run) -> str:
    pretrain = run.stage("pretrain")
    device, cpus = (pretrain.get("tags") or {}).get("device"), (pretrain.get("environment") or {}).get("cpus")
    return str(device) if device and device != "cpu" else f"CPU, {cpus} cores" if cpus else str(device or "")
