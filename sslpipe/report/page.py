"""One self-contained page of what a run came to: no network, light and dark, desktop and phone.

The page is a function of the run's files and settings: built twice, it is the same bytes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sslpipe.report import rendering, results, sections
from sslpipe.report.config import Config
from sslpipe.report.results import Row
from sslpipe.report.run import Run, read, seconds
from sslpipe.report.words import duration, integer, is_number


def build(directory: str | Path, params: Mapping[str, Any], config: Config | None = None) -> Path:
    """Write `report/index.html` from the files of a run.

    Sections whose files are missing are left out; a file that is there but cannot be read is named on the page.

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
    templates = rendering.environment()
    shown = [
        rendering.section(templates, name, context)
        for name, module in found_sections()
        if (context := module.context(run, config)) is not None
    ]
    # The page comes last: sections may have found files that cannot be read.
    html = templates.get_template("report.html").render(
        sections=shown,
        problems=run.problems,
        style=rendering.static("page.css"),
        script=rendering.static("page.js"),
        **_header(run),
    )
    return rendering.write(Path(directory) / "report" / "index.html", html)


def found_sections() -> list[tuple[str, Any]]:
    """The modules of the folder `sections` by name, in the order of the page.

    Each has its place `ORDER`, and `context(run, config)`: what its template shows, None for nothing.
    """
    names = [module.name for module in pkgutil.iter_modules(sections.__path__)]
    modules = [(name, importlib.import_module(f"{sections.__name__}.{name}")) for name in names]
    return sorted(modules, key=lambda found: found[1].ORDER)


def _header(run: Run) -> dict[str, Any]:
    """What stands above the sections."""
    rows = results.rows(run.metrics)
    source, seed = run.params.get("data.source"), run.params.get("seed")
    title = results.headline(rows, run.method or "Self-supervised", run.count("test")) or _without(run, rows)
    start, found, end = title.rpartition(" to ")
    gained = bool(found) and " lifts " in start
    row, pretrain = results.most_telling(rows), run.metrics.get("pretrain", {})
    return {
        "title": " on ".join(str(part) for part in (run.method, source) if part),
        "eyebrow": [part for part in (run.method, source, "" if seed is None else f"seed {seed}") if part],
        "headline": start + found if gained else title,
        "gained": end.rstrip(".") if gained else None,
        "pixels": row.top1.get("raw_pixel") if row else None,
        "encoder": row.top1.get("encoder") if row else None,
        "images": run.count("train"),
        "epochs": _number(pretrain.get("epochs")),
        "seconds": _number(pretrain.get("seconds")),
        "facts": [(name, first or second, second if first else "") for name, first, second in _facts(run)],
    }


def _without(run: Run, rows: list[Row]) -> str:
    """The headline where there is no score beside a baseline."""
    if "pretrain" not in run.metrics:
        return "Nothing to report yet."
    ran = f"{run.method or 'Self-supervised'} pretraining ran"
    if rows and all(row.skipped is not None for row in rows):
        return f"{ran}; its evaluations were skipped."
    return f"{ran}; what it bought has not been measured."


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """Names with two lines each, either of which may be empty."""
    pretrain = run.metrics.get("pretrain", {})
    dim, resolution = run.encoder.get("dim"), run.manifest.get("resolution")
    splits = {split: n for split in ("train", "test") if (n := run.count(split)) is not None}
    sizes = " + ".join(splits) + (f", up to {resolution} px" if resolution else "")
    total = sum(filter(None, (seconds(stage) for stage in run.stages)))
    rate, steps = pretrain.get("images_per_second"), pretrain.get("steps")
    git = (run.stage("pretrain") or (run.stages[0] if run.stages else {})).get("git") or {}
    started = [stage["started"] for stage in run.stages if is_number(stage.get("started"))]
    backbone = run.encoder.get("name") or run.params.get("pretrain.backbone") or ""
    return [
        ("Backbone", str(backbone), f"{integer(dim)} features" if is_number(dim) else ""),
        ("Images", " + ".join(map(integer, splits.values())), sizes if splits else ""),
        (
            "Pretraining",
            f"{integer(steps)} steps" if is_number(steps) else "",
            f"{integer(rate)} images/s" if is_number(rate) else "",
        ),
        ("All stages", duration(total) if total else "", _device(run)),
        ("Code", str(git.get("commit") or "")[:8], "with local changes" if git.get("dirty") else ""),
        ("Started", *(_moment(min(started)) if started else ("", ""))),
    ]


def _number(value: Any) -> float | None:
    return value if is_number(value) else None


def _moment(milliseconds: float) -> tuple[str, str]:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment.day} {moment:%B %Y}", f"{moment:%H:%M} UTC"


def _device(run: Run) -> str:
    pretrain = run.stage("pretrain")
    device, cpus = (pretrain.get("tags") or {}).get("device"), (pretrain.get("environment") or {}).get("cpus")
    return str(device) if device and device != "cpu" else f"CPU, {cpus} cores" if cpus else str(device or "")
