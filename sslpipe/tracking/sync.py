"""`sslpipe sync`: make MLflow show what the files say, whatever it shows now. Twice is the same as once.

`sync` brings everything that has ended, `follow` the runs of stages as they go. Both bring a run by `_Run.bring` and
an experiment by `_show`, so MLflow shows the same whether a run was followed or brought later.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.tracking import experiments, journal, memory, notes
from sslpipe.tracking.mlflow import Mirror
from sslpipe.tracking.record import Config
from sslpipe.tracking.store import clear_outage, database_file, mirror_lock, note_outage, store_uri
from sslpipe.tracking.trouble import shown, trouble

IDLE = 30.0  # seconds to wait for the next stage: a new start costs 4 s of imports


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a sync did.

    Attributes:
        runs: stage runs that were added to MLflow or completed there.
        experiments: rows of experiments that were added or changed.
        skipped: runs and experiments that cannot be shown, each with its reason.
        moved: what was set right because the project was moved, a sentence each.
        behind: stages of the workspace that are not those of params.yaml, which is why it got no row.
        error: why MLflow could not be told, one sentence; the files are whole all the same.
    """

    runs: int = 0
    experiments: int = 0
    skipped: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        """One line for the user, more where something is amiss."""
        if self.error:
            return self.error
        counts = f"{_count(self.experiments, 'experiment')} and {_count(self.runs, 'run')}"
        changed = self.runs or self.experiments
        lines = [*self.moved, f"MLflow: {counts} updated" if changed else "MLflow is up to date"]
        if self.behind:
            lines.append(
                f"params.yaml or the data changed since {', '.join(self.behind)} ran: "
                "run `dvc repro` to give these settings a row of their own"
            )
        return "\n".join([*lines, *(f"not shown: {line}" for line in self.skipped)])


def sync(
    tracking: Config,
    *,
    key: str | None = None,
    params: Mapping[str, Any] | None = None,
    resolved: Mapping[str, Any] | None = None,
    directory: str | Path = ".",
    force: bool = True,
) -> Summary:
    """Bring MLflow up to date from `runs/*.json` and the copies in scratch.

    Args:
        key: of the experiment of the workspace in `directory`, which gets its row by it even where every stage came
            from the cache, unless some of its files belong to other settings (`Summary.behind`).
        params: all its settings, flat.
        resolved: what each stage rests on now, as in data/resolved: tells whether the workspace is up to date.
        force: look into MLflow also where neither the files nor the store changed since the last sync;
            without it, that case takes no import of MLflow.

    Returns:
        What was done. A store that does not answer is `Summary.error`, not an exception.
    """
    if not tracking.enabled:
        return Summary(error="MLflow is switched off (`tracking.enabled` in params.yaml)")
    behind: tuple[str, ...] = ()
    if key is not None and params is not None and memory.workspace_runs(directory):
        behind = tuple(experiments.behind(directory, resolved or {}))
        if not behind:
            memory.remember(directory, key, params, tracking.experiment)
    uri, stamp = store_uri(tracking.uri), scratch.folder("tracking") / "synced"
    if not force and stamp.is_file() and stamp.read_text() == _state(uri):
        return Summary(behind=behind)
    try:
        with mirror_lock():
            summary = _bring_all(uri, tracking.experiment)
    except Exception as error:
        found = trouble(error, uri)
        note_outage(uri, found)
        return Summary(error=found.sentence(f"MLflow at {shown(uri)} was not updated"), behind=behind)
    clear_outage(uri)
    if not summary.skipped:
        scratch.atomic_write(stamp, _state(uri))
    return replace(summary, behind=behind)


def follow(idle: float = IDLE, interval: float = 1.0, say: Callable[[str], None] = lambda line: None) -> bool:
    """Show the runs that stages announce while they go, until there were none for `idle` seconds.

    A stage never waits for this. A store that does not answer is noted as out, and its runs stay announced: the next
    follower or `sync` catches up.

    Returns:
        Whether this process did it; not where another one is at it.
    """
    lock = notes.follower_lock()
    while True:
        with journal.try_lock(lock) as mine:
            if not mine:
                return False
            _Follower(say).work(lock, idle, interval)
        # A stage that announced itself just before the lock was let go started no follower of its own.
        if not lock.exists() or not notes.waiting():
            return True


@dataclass
class _Follower:
    say: Callable[[str], None] = lambda line: None
    mirrors: dict[tuple[str, str], Mirror] = field(default_factory=dict)  # by store and experiment
    runs: dict[str, _Run] = field(default_factory=dict)

    def work(self, lock: Path, idle: float, interval: float) -> None:
        busy = time.monotonic()
        while lock.exists():  # gone: the project's scratch was deleted, and must not be made again
            for note in (waiting := notes.waiting()):
                self.serve(note)
            if waiting:
                busy = time.monotonic()
            elif time.monotonic() - busy >= idle:
                return
            time.sleep(interval)

    def serve(self, note: Mapping[str, Any]) -> None:
        """Bring what is new of one announced run."""
        run, store = note["run"], (note["uri"], note["experiment"])
        try:
            with mirror_lock():
                record = self._bring(run, store)
        except _RefusedError as error:  # `sslpipe sync` names it, and goes on trying
            traceback.print_exception(error)
            self.say(f"{run}: not shown ({error})")
        except Exception as error:
            found = trouble(error, note["uri"])
            note_outage(note["uri"], found)
            self.mirrors.pop(store, None)
            self.runs.pop(run, None)
            self.say(found.sentence(f"MLflow at {shown(note['uri'])} does not take runs"))
            return
        else:
            if record is None:
                return
            self.say(f"{run}: {record['status']}")
        self.runs.pop(run, None)
        notes.dismiss(run)

    def _bring(self, run: str, store: tuple[str, str]) -> dict[str, Any] | None:
        if store not in self.mirrors:
            self.mirrors[store] = Mirror(*store)
            clear_outage(store[0])
            if moved := self.mirrors[store].moved:
                self.say(str(moved))
        mirror = self.mirrors[store]
        record = self.runs.setdefault(run, _Run(scratch.folder("runs") / run)).bring(mirror)
        if record and record["stage"] == experiments.LAST_STAGE and record["status"] == "finished":
            _show(mirror, record["key"], ("finished", record["finished"]))
        return record


class _RefusedError(Exception):
    """MLflow answers, but does not take a run; the text says why."""


class _Run:
    """One run of a stage on its way to MLflow."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tail = folder, journal.Tail(folder)
        self.row = ""  # MLflow's id of it
        self.sent: set[journal.Mark] = set()

    def bring(self, mirror: Mirror) -> dict[str, Any] | None:
        """Bring what is new to MLflow.

        Returns:
            The record of a run that has ended, all of which MLflow shows now; None while it goes on.

        Raises:
            _RefusedError: it is this run that cannot be shown, not the store that does not answer.
        """
        try:
            return self._bring(mirror)
        except Exception as error:
            mirror.client.get_experiment(mirror.experiment)  # raises where it is the store
            raise _RefusedError(trouble(error, mirror.uri).why) from error

    def _bring(self, mirror: Mirror) -> dict[str, Any] | None:
        going = journal.alive(self.folder)  # asked first, so that nothing is written after the last read
        events = self.tail.read()
        record = None if going else journal.ended(self.folder)
        if not self.row:
            head = record or journal.start(events)
            if head is None:  # its first line is not written yet
                return None
            self.row = mirror.open_child(head)
            if going:
                mirror.running(head)
        mirror.replay(self.row, events)
        self.sent |= journal.marks(events)
        if record is not None:  # whole also where the journal is not: made elsewhere, or cut by a full disk
            mirror.replay(self.row, journal.events_of(record, self.sent))
            mirror.close_child(self.row, record, self.folder)
        return record


def _show(mirror: Mirror, key: str, end: tuple[str, int] | None) -> bool:
    """Bring an experiment's row up to date, `end` (how and when, None if a stage runs), too; whether it changed."""
    row, changed = memory.recall(key), False
    if row and row["experiment"] == mirror.name:
        changed = mirror.summarise(row, memory.records(row))
    if end is not None:
        mirror.settle(key, *end)
    return changed


def _bring_all(uri: str, current: str) -> Summary:
    """Bring everything of all experiments; one that MLflow does not take stops only if it is the current one."""
    runs, rows, skipped, moved = 0, 0, list[str](), list[str]()
    for name, ended in _ended_by_experiment(current).items():
        try:
            mirror = Mirror(uri, name)
        except UserError as error:
            if name == current:
                raise
            skipped.append(f"experiment {name} ({error})")
            for record in ended.values():
                notes.dismiss(record["id"])
            continue
        added, refused = _bring_missing(mirror, ended)
        runs, rows, skipped = runs + added, rows + _show_all(mirror, ended), [*skipped, *refused]
        moved += [str(mirror.moved)] if mirror.moved else []
    return Summary(runs=runs, experiments=rows, skipped=tuple(skipped), moved=tuple(moved))


def _bring_missing(mirror: Mirror, ended: Mapping[Path, Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Bring the runs that MLflow does not show in full; how many, and which cannot be shown."""
    there, added, refused = mirror.mirrored(), 0, []
    for folder, record in ended.items():
        if record["id"] not in there:
            try:
                _Run(folder).bring(mirror)
            except _RefusedError as error:
                refused.append(f"{record['id']} ({error})")
                continue
            added += 1
        notes.dismiss(record["id"])
    return added, refused


def _show_all(mirror: Mirror, ended: Mapping[Path, Mapping[str, Any]]) -> int:
    """Bring the rows of all experiments up to date; how many changed."""
    rows = [row for row in memory.remembered() if row["experiment"] == mirror.name]
    ends = {row["key"]: ("finished", row["created"]) for row in rows}
    ends |= {record["key"]: (record["status"], record["finished"]) for record in ended.values()}
    live = {
        event["key"]
        for folder in scratch.folder("runs").iterdir()
        if journal.alive(folder)
        for event in journal.read(folder)[:1]
    }
    return sum(_show(mirror, key, None if key in live else end) for key, end in ends.items())


def _ended_by_experiment(current: str) -> dict[str, dict[Path, dict[str, Any]]]:
    """The records of all runs in scratch that have ended, by folder, in the order they started.

    Of each of MLflow's experiments that something belongs to, by name, the current one among them.
    """
    found = {}
    for folder in scratch.folder("runs").iterdir():
        if not journal.alive(folder):
            with suppress(ValueError):  # killed before its first line
                found[folder] = journal.ended(folder)
    names = {current} | {each["experiment"] for each in (*found.values(), *memory.remembered())}
    ended: dict[str, dict[Path, dict[str, Any]]] = {name: {} for name in sorted(filter(None, names))}
    for folder, record in sorted(found.items(), key=lambda run: run[1]["started"]):
        if record["experiment"]:
            ended[record["experiment"]][folder] = record
    return ended


def _state(uri: str) -> str:
    """A digest of all that a sync reads, and of which SQLite file it wrote to."""
    store = database_file(uri)
    files = [*memory.folder().glob("*.json"), *scratch.folder("runs").glob(f"*/{journal.RECORD}")]
    seen = sorted((str(path), path.stat().st_mtime_ns) for path in files)
    return scratch.digest([uri, store.stat().st_ino if store and store.is_file() else None, seen])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
