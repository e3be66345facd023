"""What scratch remembers of each experiment: which run gave each stage's result, and its numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslpipe.core import scratch
from sslpipe.tracking import journal
from sslpipe.tracking.experiments import LAST_STAGE
from sslpipe.tracking.headline import headline


def folder() -> Path:
    """Where scratch keeps one file an experiment."""
    return scratch.folder("experiments")


def remember(
    directory: str | Path, key: str, params: Mapping[str, Any], experiment: str | None
) -> dict[str, Any]:
    """Write `.sslpipe/experiments/<key>.json`: which run gave each stage's result, and its numbers.

    Only for a workspace whose stages are all up to date: leftovers of another experiment would be taken
    for this one's.
    """
    runs, path = workspace_runs(directory), folder() / f"{key}.json"
    former = _read(path) or {}
    for run in runs.values():
        _adopt(run)
    numbers: dict[str, float] = {}
    for stage, run in runs.items():
        numbers |= headline(stage, run.get("result"), Path(directory) / "metrics")
    content = {
        "key": key,
        "experiment": experiment,
        "created": former.get("created", time.time_ns() // 1_000_000),
        "params": dict(params),
        "stages": {stage: run["id"] for stage, run in runs.items()},
        "headline": numbers,
    }
    if content != former:
        scratch.write_json(path, content)
    return content


def _adopt(run: dict[str, Any]) -> None:
    """Keep a copy of a record that was made elsewhere and came by `dvc pull`."""
    path = scratch.folder("runs") / run["id"] / journal.RECORD
    if not path.is_file():
        scratch.atomic_write(path, journal.record_text(run))


def recall(key: str) -> dict[str, Any] | None:
    """What `remember` wrote about one experiment."""
    return _read(folder() / f"{key}.json")


def remembered() -> list[dict[str, Any]]:
    """What `remember` wrote, oldest first."""
    found = [content for path in folder().glob("*.json") if (content := _read(path))]
    return sorted(found, key=lambda content: content["created"])


def records(experiment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The records of an experiment's stages by run id, in the order they started; missing ones left out."""
    runs = scratch.root() / ".sslpipe" / "runs"
    found = [journal.read_record(runs / run) for run in experiment["stages"].values()]
    return {
        record["id"]: record for record in sorted(filter(None, found), key=lambda record: record["started"])
    }


def record_file(stage: str) -> Path:
    """Where a stage's record lies. The last stage reads the folder of all others, so its own lies with its page."""
    return Path("report", "run.json") if stage == LAST_STAGE else Path("runs", f"{stage}.json")


def workspace_runs(directory: str | Path = ".") -> dict[str, dict[str, Any]]:
    """The records of a workspace by stage, in the order the stages started."""
    root = Path(directory)
    files = [*(root / "runs").glob("*.json"), root / record_file(LAST_STAGE)]
    found = [record for path in files if (record := _read(path))]
    return {record["stage"]: record for record in sorted(found, key=lambda record: record["started"])}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # not there, or DVC has half removed it
    return content
