"""The short plain-text table that ends a run on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslpipe.report.results import Row, of_record, rows, told_by_accuracy
from sslpipe.report.series import SERIES
from sslpipe.report.words import NARROW_SPACE, aligned, hundredths, mapping, points


def summary_table(directory: str | Path) -> str:
    """The result table of a run as plain text without a final newline, with where the report is.

    Accuracies are top-1 in percent on the test split, the gain in points. Evaluations without a record in `runs/` are
    left out.
    """
    folder = Path(directory)
    records = {name: _read(folder / "runs" / f"{name}.json") for name in told_by_accuracy()}
    entries = rows({name: of_record(record) for name, record in records.items()})
    report = folder / "report" / "index.html"
    where = [f"report  {report}"] if report.is_file() else []
    if not entries:
        return "\n".join(["no evaluation has run yet", *where])
    measured = [_measured(row) for row in entries if row.skipped is None]
    skipped = [f"{row.title}: skipped, {row.skipped}" for row in entries if row.skipped is not None]
    lines: list[str] = []
    if measured:
        header = ["top-1 on test, %", *SERIES.values(), "Gain"]
        # A column that no row fills (raw pixels when only fine-tuning ran) is not printed.
        keep = [n for n in range(len(header)) if n == 0 or any(row[n] for row in measured)]
        lines = aligned([[row[n] for n in keep] for row in [header, *measured]], str.rjust)
    return "\n".join([*lines, *skipped, *([""] if where else []), *where])


def _measured(row: Row) -> list[str]:
    cells = [hundredths(row.top1[series]) if series in row.top1 else "" for series in SERIES]
    gain = "" if row.gain is None else points(row.gain).replace("\u2212", "-")
    return [f"{row.title}, {row.condition}".replace(NARROW_SPACE, " "), *cells, gain]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return mapping(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
