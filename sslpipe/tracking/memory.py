"""What scratch remembers of each experiment: which run gave each stage's result, and its numbers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sslpipe.core import scratch
from sslpipe.tracking import journal
from sslpipe.tracking.experiments import LAST_STAGE
from sslpipe.tracking.headline import headline


def folder() -> Path:
    """Where scratch keeps one file an experiment."""
    return scratch.folder("experiments")


def remember(directory: str | Path, key: str, params: Mapping[str, Any], experiment: str | None) -> None:
    """Write `.sslpipe/experiments/<key>.json`: which run gave each stage's result, and its numbers.

    Only for a workspace whose stages are all up to date: leftovers of another experiment would be taken
    for this one's.
    """
    runs, path = workspace_runs(directory), folder() / f"{key}.json"
    former = journal.read_json(path) or {}
    numbers: dict[str, float] = {}
    for stage, run in runs.items():
        copy = scratch.folder("runs") / run["id"] / journal.RECORD
        if not copy.is_file():  # the record was made elsewhere and came by `dvc pull`
            scratch.atomic_write(copy, journal.record_text(run))
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


def recall(key: str) -> dict[str, Any] | None:
    """What `remember` wrote about one experiment."""
    return journal.read_json(folder() / f"{key}.json")


def remembered() -> list[dict[str, Any]]:
    """What `remember` wrote, oldest first."""
    found = map(journal.read_json, folder().glob("*.json"))
    return sorted(filter(None, found), key=lambda content: content["created"])


def records(experiment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The records of an experiment's stages by run id, in the order they started; missing ones left out."""
    runs = scratch.root() / ".sslpipe" / "runs"
    found = (journal.read_json(runs / run / journal.RECORD) for run in experiment["stages"].values())
    return {record["id"]: record for record in _in_order(found)}


def record_file(stage: str) -> Path:
    """Where a stage's record lies. The last stage reads the folder of all others, so its own lies with its page."""
    return Path("report", "run.json") if stage == LAST_STAGE else Path("runs", f"{stage}.json")


def workspace_runs(directory: str | Path = ".") -> dict[str, dict[str, Any]]:
    """The records of a workspace by stage, in the order the stages started."""
    root = Path(directory)
    files = [*(root / "runs").glob("*.json"), root / record_file(LAST_STAGE)]
    return {record["stage"]: record for record in _in_order(map(journal.read_json, files))}


def _in_order(records: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return sorted(filter(None, records), key=lambda record: record["started"])
