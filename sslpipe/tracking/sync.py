"""`sslpipe sync`: make MLflow show what the files say, whatever it shows now. Twice is the same as once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.tracking import experiments, journal, mirroring
from sslpipe.tracking.record import Config

if TYPE_CHECKING:
    from sslpipe.tracking.mlflow import Mirror


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a sync did.

    Attributes:
        runs: stage runs that were added to MLflow or completed there.
        experiments: rows of experiments that were added or changed.
        skipped: runs that cannot be shown, each with its reason.
        behind: stages of the workspace that are not those of params.yaml, which is why it got no row.
        error: why MLflow could not be told, one sentence; the files are whole all the same.
    """

    runs: int = 0
    experiments: int = 0
    skipped: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        """One line for the user, more where something is amiss."""
        if self.error:
            return self.error
        lines = [f"MLflow: {_count(self.experiments, 'experiment')} and {_count(self.runs, 'run')} updated"]
        if not self.runs and not self.experiments:
            lines = ["MLflow is up to date"]
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
    directory: str | Path = ".",
    force: bool = True,
) -> Summary:
    """Rebuild MLflow from `runs/*.json` and the copies in scratch.

    Args:
        tracking: the section `tracking`.
        key: of the workspace's experiment, from `experiment_key`.
        params: all its settings, flat. With `key` the workspace gets its row even where every stage came
            from the cache, unless some of its files belong to other settings (`Summary.behind`).
        directory: the workspace.
        force: look into MLflow also where neither the files nor the store changed since the last sync;
            without it, that case takes no import of MLflow.

    Returns:
        What was done. A store that does not answer is `Summary.error`, not an exception.
    """
    if not tracking.enabled:
        return Summary(error="MLflow is switched off (`tracking.enabled` in params.yaml)")
    behind: tuple[str, ...] = ()
    if key is not None and params is not None and experiments.workspace_runs(directory):
        behind = tuple(experiments.behind(directory))
        if not behind:
            experiments.remember(directory, key, params, tracking.experiment)
    uri, stamp = mirroring.store_uri(tracking.uri), scratch.folder("tracking") / "synced"
    if not force and stamp.is_file() and stamp.read_text() == _state(uri):
        return Summary(behind=behind)
    from sslpipe.tracking.mlflow import Mirror, mirror_lock, reason

    runs, rows, skipped = 0, 0, list[str]()
    try:
        with mirror_lock():
            for experiment in _experiments(tracking.experiment):
                mirror = Mirror(uri, experiment)
                added, trouble = _children(mirror, experiment, uri)
                runs, rows, skipped = runs + added, rows + _parents(mirror, experiment), [*skipped, *trouble]
    except Exception as error:
        mirroring.note_outage(uri, reason(error, uri))
        return Summary(
            error=f"MLflow at {mirroring.shown(uri)} was not updated ({reason(error, uri)}): "
            "nothing is lost, run `sslpipe sync` when it is back",
            behind=behind,
        )
    mirroring.clear_outage(uri)
    if not skipped:
        scratch.atomic_write(stamp, _state(uri))
    return Summary(runs=runs, experiments=rows, skipped=tuple(skipped), behind=behind)


def ui_command(tracking: Config, *, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command and environment of MLflow's pages on localhost for the store in use; see `ui_address`.

    Raises:
        UserError: the store is a server, which has pages of its own.
    """
    uri = mirroring.store_uri(tracking.uri)
    if mirroring.served(uri):
        raise UserError(f"MLflow runs as a server: open {ui_address(tracking)} in a browser")
    artifacts = (scratch.root().resolve() / "mlartifacts").as_uri()
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", uri, "--default-artifact-root", artifacts]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return [sys.executable, "-m", "mlflow", "ui", *where, *store], environment


def ui_address(tracking: Config, *, port: int = 5000) -> str:
    """The address of MLflow's page with one row an experiment and the headline metrics beside it."""
    uri = mirroring.store_uri(tracking.uri)
    host = mirroring.shown(uri).rstrip("/") if mirroring.served(uri) else f"http://127.0.0.1:{port}"
    return host + mirroring.page(uri, tracking.experiment)


def _experiments(current: str) -> list[str]:
    names = {record["experiment"] for _, record in _runs()} | {
        row["experiment"] for row in experiments.remembered()
    }
    return sorted(name for name in names | {current} if name)


def _runs() -> list[tuple[Path, dict[str, Any]]]:
    """Folder and record of every ended run in scratch, in the order they started."""
    found = []
    for folder in scratch.folder("runs").iterdir():
        if not journal.alive(folder):
            with suppress(ValueError):  # killed before its first line
                found.append((folder, journal.ended(folder)))
    return sorted(found, key=lambda run: run[1]["started"])


def _children(mirror: Mirror, experiment: str, uri: str) -> tuple[int, list[str]]:
    from sslpipe.tracking.mlflow import reason

    whole, added, skipped = mirror.mirrored(), 0, []
    for folder, record in _runs():
        if record["experiment"] == experiment and record["id"] not in whole:
            try:
                run_id = mirror.open_child(record)
                events = journal.events_of(record) if "metrics" in record else journal.read(folder)
                mirror.replay(run_id, events)
                mirror.close_child(run_id, record, folder)
            except Exception as error:
                mirror.client.get_experiment(mirror.experiment)  # raises where it is the store that fails
                skipped.append(f"{record['id']} ({reason(error, uri)})")
                continue
            added += 1
        mirroring.dismiss(record["id"])
    return added, skipped


def _parents(mirror: Mirror, experiment: str) -> int:
    rows = [row for row in experiments.remembered() if row["experiment"] == experiment]
    changed = sum(mirror.summarise(row, experiments.records(row)) for row in rows)
    ends = {row["key"]: ("finished", row["created"]) for row in rows}
    ends |= {
        record["key"]: (record["status"], record["finished"])
        for _, record in _runs()
        if record["experiment"] == experiment
    }
    for key in ends.keys() - _live():
        mirror.settle(key, *ends[key])
    return changed


def _live() -> set[str]:
    folders = [folder for folder in scratch.folder("runs").iterdir() if journal.alive(folder)]
    return {event["key"] for folder in folders for event in journal.read(folder)[:1]}


def _state(uri: str) -> str:
    """A digest of all that a sync reads, and of which SQLite file it wrote to."""
    store = Path(uri.removeprefix("sqlite:///"))
    files = [
        *scratch.folder("experiments").glob("*.json"),
        *scratch.folder("runs").glob(f"*/{journal.RECORD}"),
    ]
    seen = sorted((str(path), path.stat().st_mtime_ns) for path in files)
    return scratch.digest([uri, store.stat().st_ino if store.is_file() else None, seen])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
