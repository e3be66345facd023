"""The record of one stage run: files, which are the truth. A process apart tells MLflow about them.

While a stage runs, `.sslpipe/runs/<id>/journal.jsonl` grows, one JSON line an event. When it has finished,
the same facts lie in `runs/<stage>.json` (a cached DVC output) and in `.sslpipe/runs/<id>/record.json`; a run
that failed or was killed is kept in scratch only. A stage never talks to MLflow and never waits for it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sslpipe.console.errors import UserError, explain_os_error, explained
from sslpipe.core import scratch
from sslpipe.tracking import energy, journal, memory, notes
from sslpipe.tracking.config import Config
from sslpipe.tracking.environment import environment, git_refusal, git_state
from sslpipe.tracking.experiments import LAST_STAGE
from sslpipe.tracking.headline import flat, headline
from sslpipe.tracking.store import outage_to_warn_of
from sslpipe.tracking.trouble import first_time

KEPT_BYTES = 32 * 2**20  # larger artifacts are recorded by digest but not copied into scratch


class Record:
    """What one run of a stage did. A context manager: leaving it writes the files.

    >>> with Record("knn", params=flat, own=("knn", "seed"), key=key, tracking=settings.tracking) as record:
    ...     record.metrics({"top1": 0.93})

    Attributes:
        id: of this run; names its folder in scratch and its child run in MLflow.
    """

    def __init__(
        self,
        stage: str,
        *,
        params: Mapping[str, Any],
        own: tuple[str, ...],
        key: str,
        tracking: Config | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Describe the run; nothing is written yet.

        Args:
            stage: name of the stage.
            params: ALL resolved settings, flat (`"knn.k": 20`), without the section `tracking`.
            own: the sections (or single names) this stage reads: the parameters of its row in MLflow.
            key: of the experiment, from `experiment_key`.
            tracking: the section `tracking`; None for its defaults.
            fingerprint: of everything the result depends on; `restore` and `resumed` look for it.
        """
        self.stage, self.tracking = stage, tracking or Config()
        started = _now()
        # Sorts by time; the random end keeps apart what starts in one millisecond on a shared folder.
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started // 1000))
        self.id = f"{moment}-{started % 1000:03d}-{stage}-{secrets.token_hex(3)}"
        self.directory = Path.cwd()
        self._head: dict[str, Any] = {
            "id": self.id,
            "stage": stage,
            "key": key,
            "fingerprint": fingerprint,
            "started": started,
            "params": dict(params),
            "own": list(own),
            "experiment": self.tracking.experiment if self.tracking.enabled else None,  # None: not for MLflow
            "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
        }
        # All that the journal is to hold, which a full disk may cut.
        self._events: list[Mapping[str, Any]] = []
        self._looked, self._disk_warned = 0.0, False

    def __enter__(self) -> Self:
        """Open the journal and let MLflow know."""
        self.folder = scratch.folder("runs", self.id)
        self._head |= {"git": git_state(self.directory), "environment": environment()}
        self._alive = journal.hold(self.folder)
        self._journal = open(self.folder / journal.JOURNAL, "ab", buffering=0)
        self._write({"event": "start", **self._head})
        self._meter = energy.Meter().__enter__()
        if self.tracking.enabled:
            notes.announce(self.id, uri=self.tracking.uri, experiment=self.tracking.experiment)
        self._look_for_outage()
        self._look_for_git()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write how it ended: `finished`, `failed`, or `killed` (Ctrl-C, SIGTERM)."""
        try:
            self._end(error)
        except UserError as trouble:
            if error is None:
                raise
            _warn(trouble)  # the stage's own error matters more
        finally:
            self._journal.close()
            self._alive.close()
            self._look_for_outage()

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Record one number; see `metrics`."""
        self.metrics({name: value}, step)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record named numbers at a step; a name recorded again at the same step replaces its value."""
        plain = journal.plain_numbers({name: float(value) for name, value in values.items()})
        self._write({"event": "metrics", "values": plain, "step": int(step), "time": _now()})
        if time.monotonic() - self._looked > 10:
            self._look_for_outage()

    def result(
        self,
        metrics: Mapping[str, Any],
        protocol: Mapping[str, Any] | None = None,
        skipped: str | None = None,
        *,
        prefix: str = "",
        step: int = 0,
    ) -> None:
        """Keep what an evaluation found. MLflow shows its numbers as metrics, and the protocol as a tag.

        Args:
            metrics: all numbers, nested as one likes; MLflow shows them by dotted names.
            protocol: how they were measured.
            skipped: why there are none, in a few words; None for an evaluation that ran.
            prefix: put before their names in MLflow, where a curve has the same name.
            step: at which MLflow shows them.
        """
        found = journal.plain_numbers({"metrics": metrics, "protocol": protocol or {}})
        self._write({"event": "result", **found, "skipped": skipped})
        if numbers := flat(metrics):
            self.metrics({f"{prefix}{name}": value for name, value in numbers.items()}, step)
        if protocol:
            self.tag("protocol", json.dumps(found["protocol"], sort_keys=True))
        if skipped is not None:
            self.tag("skipped", skipped)

    def dataset(self, name: str, digest: str, source: str) -> None:
        """Record what data the stage read: its name, its digest and where it came from."""
        self._write({"event": "dataset", "name": name, "digest": digest, "source": source})

    def tag(self, name: str, value: object) -> None:
        """Record a word about the run, as `device: cuda` or `skipped: no labels`."""
        self._write({"event": "tag", "name": name, "value": str(value)})

    def artifact(self, path: str | Path) -> None:
        """Record a finished file, or every file of a folder, and keep a copy for MLflow.

        Raises:
            UserError: the copy cannot be written.
        """
        path = Path(path)
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            self._write({"event": "artifact", **self._keep(file)})

    def resumed(self, step: int) -> None:
        """Say that a checkpoint of `step` was loaded: the interrupted run's metrics up to it are taken over.

        The interrupted run is the newest earlier one of this stage with the same fingerprint.
        """
        for folder in _newest(self.stage):
            events = journal.read(folder)
            fingerprint = events[0].get("fingerprint") if events else None
            if folder == self.folder or fingerprint is None or fingerprint != self._head["fingerprint"]:
                continue
            for event in events:
                if event["event"] == "metrics" and event["step"] <= step:
                    self._write(event)
            self.tag("resumed", f"at step {step}, after {folder.name}")
            return

    def _end(self, error: BaseException | None) -> None:
        status = _status(error)
        self._meter.__exit__()
        if self._meter.joules is not None:
            self.metric(energy.METRIC, self._meter.joules / 3600)
        if status != "finished":
            self.tag("error", f"{type(error).__name__}: {error}"[:500])
        facts, metrics = journal.facts(self._events), self.directory / "metrics"
        end = {
            "status": status,
            "finished": _now(),
            "headline": headline(self.stage, facts["result"], metrics) if status == "finished" else {},
        }
        text = journal.record_text({**self._head, **end, **facts})
        try:
            if status == "finished":
                scratch.atomic_write(self.directory / memory.record_file(self.stage), text)
                if self.stage == LAST_STAGE:
                    head = self._head
                    memory.remember(self.directory, head["key"], head["params"], head["experiment"])
            scratch.atomic_write(self.folder / journal.RECORD, text)
        finally:
            self._write({"event": "end", **end})

    def _keep(self, file: Path) -> dict[str, Any]:
        size, name = file.stat().st_size, _inside(file, self.directory)
        keep = size <= KEPT_BYTES
        if keep:
            copy = self.folder / "artifacts" / name
            with explained(f"keeping a copy of {name}"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            file = copy
        return {"path": name, "sha256": scratch.file_digest(file), "bytes": size, "kept": keep}

    def _write(self, event: Mapping[str, Any]) -> None:
        self._events.append(event)
        try:
            self._journal.write(f"{json.dumps(event, allow_nan=False)}\n".encode())
        except OSError as error:  # a full disk: the stage goes on, and its record is written whole at the end
            if not self._disk_warned:
                self._disk_warned = True
                _warn(explain_os_error(error, "writing the journal"))

    def _look_for_outage(self) -> None:
        self._looked = time.monotonic()
        if self.tracking.enabled and (warning := outage_to_warn_of(self.tracking.uri, self._head["key"])):
            _warn(warning)

    def _look_for_git(self) -> None:
        refusal = git_refusal(self.directory) if self._head["git"] is None else None
        if refusal and first_time("git", self._head["key"]):
            _warn(refusal)


def restore(stage: str, match: str) -> bool:
    """Write `runs/<stage>.json` again, byte for byte, from the newest finished run with this fingerprint, if any.

    For a stage that always runs: its output stays identical as long as its result does.
    """
    for folder in _newest(stage):
        record = journal.read_json(folder / journal.RECORD)
        if record and record["status"] == "finished" and record["fingerprint"] == match:
            scratch.atomic_write(memory.record_file(stage), (folder / journal.RECORD).read_bytes())
            return True
    return False


def _newest(stage: str) -> list[Path]:
    """The folders of all runs of a stage, the newest first."""
    return sorted(scratch.folder("runs").glob(f"*-{stage}-*"), reverse=True)


def _status(error: BaseException | None) -> str:
    if isinstance(error, SystemExit):
        ends: dict[object, str] = {None: "finished", 0: "finished", 130: "killed", 143: "killed"}
        return ends.get(error.code, "failed")
    if isinstance(error, KeyboardInterrupt):
        return "killed"
    return "finished" if error is None else "failed"


def _warn(about: object) -> None:
    print(f"warning: {about}", file=sys.stderr, flush=True)


def _inside(file: Path, directory: Path) -> str:
    path = Path(os.path.abspath(file))
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else file.name


def _now() -> int:
    return time.time_ns() // 1_000_000
