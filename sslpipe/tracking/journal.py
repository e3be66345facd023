"""The journal of a run in scratch: lines that a stage appends and others read, also while it grows."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sslpipe.core import scratch

JOURNAL, RECORD, ALIVE = "journal.jsonl", "record.json", "alive.lock"
#: Tells a metric that was recorded from all others of its run: name, step, time.
Mark = tuple[str, int, int]


class Tail:
    """Reads a journal bit by bit: every call of `read` gives the events that were added since."""

    def __init__(self, folder: Path) -> None:
        self.path, self.offset = folder / JOURNAL, 0

    def read(self) -> list[dict[str, Any]]:
        """New complete lines; one that a kill or a full disk cut short is skipped."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                added = file.read()
        except OSError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self.offset += len(whole)
        events = []
        for line in whole.splitlines():
            with suppress(ValueError):
                events.append(json.loads(line))
        return events


def read(folder: Path) -> list[dict[str, Any]]:
    """All events of a run, its `start` first; none where there is no journal."""
    return Tail(folder).read()


def read_json(path: Path) -> dict[str, Any] | None:
    """A file with a JSON object; none where it is missing or cut short, as while DVC removes it."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content


def plain_numbers(value: Any) -> Any:
    """Nested mappings and lists as JSON can hold them: `nan` and infinities become words that `float` reads."""
    if isinstance(value, Mapping):
        return {name: plain_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def record_text(record: dict[str, Any]) -> str:
    """A record as JSON for people too: indented, but one line a metric."""
    rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in record["metrics"])
    others = {name: value for name, value in record.items() if name != "metrics"}
    head = json.dumps(others, indent=1, allow_nan=False)
    return f'{head[:-2]},\n "metrics": [\n{rows}\n ]\n}}\n'


@contextmanager
def try_lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a file's lock, saying nothing; gives whether it was had (always, with `wait`)."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def hold(folder: Path) -> IO[str]:
    """Mark a run as alive: the lock lasts until the file is closed or the process ends, however it ends."""
    file = open(folder / ALIVE, "a")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def alive(folder: Path) -> bool:
    """Whether the process of this run is still at work."""
    return (folder / ALIVE).exists() and scratch.is_locked(folder / ALIVE)


def start(events: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a run's first line says of it; none where that is missing."""
    return next(_all("start", events), None)


def ended(folder: Path) -> dict[str, Any]:
    """The record of a run that has ended; for one that was killed outright, made up from its journal.

    Raises:
        ValueError: there is neither a record nor a journal's start.
    """
    if record := read_json(folder / RECORD):
        return record
    events = read(folder)
    head = start(events)
    if head is None:
        raise ValueError(f"{folder.name}: no record and no start in its journal")
    last = max(event.get("time", head["started"]) for event in events)
    return {**head, "status": "killed", "finished": last, "headline": {}, **facts(events)}


def facts(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a record holds of its run's events; of what was said again, the last."""
    metrics = {
        (name, event["step"]): (value, event["time"])
        for event in _all("metrics", events)
        for name, value in event["values"].items()
    }
    result, dataset = (next(_all(kind, reversed(events)), None) for kind in ("result", "dataset"))
    return {
        "result": result,
        "dataset": dataset,
        "metrics": [[name, value, step, when] for (name, step), (value, when) in metrics.items()],
        "artifacts": list({event["path"]: event for event in _all("artifact", events)}.values()),
        "tags": {event["name"]: event["value"] for event in _all("tag", events)},
    }


def events_of(record: Mapping[str, Any], sent: Collection[Mark] = ()) -> list[dict[str, Any]]:
    """A record as journal events, without the metrics that are marked as sent."""
    metrics = [
        {"event": "metrics", "values": {name: value}, "step": step, "time": when}
        for name, value, step, when in record["metrics"]
        if (name, step, when) not in sent
    ]
    tags = [{"event": "tag", "name": name, "value": value} for name, value in record["tags"].items()]
    artifacts = [{"event": "artifact", **entry} for entry in record["artifacts"]]
    single = [{"event": kind, **record[kind]} for kind in ("dataset", "result") if record.get(kind)]
    return [*metrics, *tags, *artifacts, *single]


def marks(events: Iterable[Mapping[str, Any]]) -> set[Mark]:
    """The marks of the metrics in these events: name, step and time."""
    return {
        (name, event["step"], event["time"]) for event in _all("metrics", events) for name in event["values"]
    }


def _all(kind: str, events: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the events of a kind say, without the kind."""
    for event in events:
        if event["event"] == kind:
            yield {name: value for name, value in event.items() if name != "event"}
