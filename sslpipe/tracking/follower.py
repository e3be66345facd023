"""The process that shows running stages in MLflow: one for all stages, apart from them, soon gone when idle.

It reads what the stages write (`.sslpipe/runs/<id>/journal.jsonl`), so a stage never waits for it. A store
that does not answer is noted as out, its runs stay in `.sslpipe/tracking/pending/`, and the next follower or
`sslpipe sync` catches up. Runs as `python -m sslpipe.tracking.follower`.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from sslpipe.core import scratch
from sslpipe.tracking import experiments, journal, mirroring
from sslpipe.tracking.mlflow import Mirror, mirror_lock, reason

LINGER = 30.0  # seconds to wait for the next stage: starting anew costs 4 s of imports
INTERVAL = 1.0


def follow(linger: float = LINGER, interval: float = INTERVAL) -> None:
    """Mirror the announced runs until there were none for `linger` seconds; returns if another does it."""
    path = mirroring.follower_lock()
    while True:
        with journal.try_lock(path) as mine:
            if not mine:
                return
            _Follower().work(path, linger, interval)
        # A stage that announced itself just before the lock was let go started no follower of its own.
        if not path.exists() or not _waiting():
            return


def _waiting() -> list[dict[str, Any]]:
    """Notes of runs to mirror, oldest first, without those whose store is out."""
    notes = []
    for path in sorted(mirroring.pending().glob("*.json")):
        try:
            note = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if not mirroring.recent_outage(note["uri"]):
            notes.append(note)
    return notes


class _Follower:
    def __init__(self) -> None:
        self.mirrors: dict[tuple[str, str], Mirror] = {}
        self.runs: dict[str, _Run] = {}

    def work(self, lock: Path, linger: float, interval: float) -> None:
        busy = time.monotonic()
        while lock.exists():  # gone: the project's scratch was deleted, and must not be made again
            for note in (notes := _waiting()):
                self.serve(note)
            if notes:
                busy = time.monotonic()
            elif time.monotonic() - busy >= linger:
                return
            time.sleep(interval)

    def serve(self, note: dict[str, Any]) -> None:
        store = (note["uri"], note["experiment"])
        try:
            with mirror_lock():
                if store not in self.mirrors:
                    self.mirrors[store] = Mirror(*store)
                    mirroring.clear_outage(note["uri"])
                run = self.runs.setdefault(note["run"], _Run(scratch.folder("runs", note["run"])))
                done = run.advance(self.mirrors[store])
        except Exception as error:
            traceback.print_exc()
            self.give_up(note, error)
        else:
            if done:
                mirroring.dismiss(note["run"])

    def give_up(self, note: dict[str, Any], error: Exception) -> None:
        """Call the store out; but where it answers, it is the run that cannot be shown: sync says so."""
        self.runs.pop(note["run"], None)
        mirror = self.mirrors.pop((note["uri"], note["experiment"]), None)
        try:
            if mirror is not None:
                mirror.client.get_experiment(mirror.experiment)
                mirroring.dismiss(note["run"])
                return
        except Exception as trouble:
            error = trouble
        mirroring.note_outage(note["uri"], reason(error, note["uri"]))


class _Run:
    """How far one run has been mirrored."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tail = folder, journal.Tail(folder)
        self.head: dict[str, Any] | None = None
        self.run_id = ""

    def advance(self, mirror: Mirror) -> bool:
        """Mirror what is new; whether the run has ended and all of it is there."""
        going = journal.alive(self.folder)  # asked first, so that nothing is written after the last read
        events = self.tail.read()
        if self.head is None:
            self.head = next((event for event in events if event["event"] == "start"), None)
            if self.head is None:
                return not going
            self.run_id = mirror.open_child(self.head)
            if going:
                mirror.running(mirror.parent(self.head["key"], self.head["params"], self.head["started"]))
        mirror.replay(self.run_id, events)
        if going:
            return False
        record = journal.ended(self.folder)
        mirror.close_child(self.run_id, record, self.folder)
        experiment = experiments.recall(record["key"])
        if experiment and record["stage"] == experiments.LAST_STAGE and record["status"] == "finished":
            mirror.summarise(experiment, experiments.records(experiment))
            mirror.settle(record["key"], "finished", record["finished"])
        return True


if __name__ == "__main__":
    os.nice(10)  # the pipeline goes first
    os.chdir(scratch.root())
    follow()
