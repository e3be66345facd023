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
from sslpipe.report.run import Run, read, seconds
from sslpipe.report.words import is_number


def build(directory: str | Path, params: Mapping[str, Any], config: Config | None = None) -> Path:
    """Write `report/index.html` from the files of a run, and give its path.

    Sections whose files are missing are left out; a file that is there but cannot be read is named on the page.

    Args:
        directory: where `data/`, `metrics/`, `plots/`, `models/` and `runs/` are.
        params: resolved settings, flat: {"pretrain.method": "simclr", ...}.
        config: how much to show.

    Raises:
        UserError: the page cannot be written.
    """
    run = read(directory, params, config)
    templates = rendering.environment()
    templates.globals["run"] = run
    shown = [
        rendering.part(templates, name, context)
        for name, module in found_sections()
        if (context := module.context(run)) is not None
    ]
    # The page comes last: sections may have found files that cannot be read.
    html = templates.get_template("report.html").render(
        sections=shown, style=rendering.static("page.css"), script=rendering.static("page.js"), **_header(run)
    )
    return rendering.write(Path(directory) / "report" / "index.html", html)


def found_sections() -> list[tuple[str, Any]]:
    """The modules of the folder `sections` by name, in the order of the page.

    Each has its place `ORDER`, and `context(run)`: what its template shows besides `run`, None for nothing.
    """
    names = [module.name for module in pkgutil.iter_modules(sections.__path__)]
    modules = [(name, importlib.import_module(f"{sections.__name__}.{name}")) for name in names]
    return sorted(modules, key=lambda found: found[1].ORDER)


def _header(run: Run) -> dict[str, Any]:
    """What stands above the sections."""
    rows = results.rows(run.metrics)
    told = results.most_telling(rows)
    started = [stage["started"] for stage in run.stages if is_number(stage.get("started"))]
    return {
        "told": told,
        "measurable": told is not None and results.measurable(told, run.count("test")),
        "skipped": bool(rows) and all(row.skipped is not None for row in rows),
        "splits": {split: n for split in ("train", "test") if (n := run.count(split)) is not None},
        "took": sum(filter(None, map(seconds, run.stages))),
        "started": datetime.fromtimestamp(min(started) / 1000, UTC) if started else None,
    }
