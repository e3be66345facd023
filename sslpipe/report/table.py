"""The short plain-text table that ends a run on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sslpipe.report.results import Row, of_record, rows, told_by_accuracy
from sslpipe.report.series import SERIES
from sslpipe.report.words import NARROW_SPACE, hundredths, points


def summary_table(directory: str | Path) -> str:
    """The result table as plain text, with where the report is.

    Args:
        directory: the run's, with `runs/` in it; evaluations without a record there are left out.

    Returns:
        Lines without a final newline. Accuracies are top-1 in percent on the test split, the gain in points.
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
        lines += _aligned([[row[n] for n in keep] for row in [header, *measured]])
    return "\n".join([*lines, *skipped, *([""] if where else []), *where])


def _measured(row: Row) -> list[str]:
    cells = [hundredths(row.top1[series]) if series in row.top1 else "" for series in SERIES]
    gain = "" if row.gain is None else points(row.gain).replace("\u2212", "-")
    return [f"{row.title}, {row.condition}".replace(NARROW_SPACE, " "), *cells, gain]


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    lines = [
        "   ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
