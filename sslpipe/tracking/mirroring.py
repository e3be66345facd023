"""How a stage lets MLflow's mirror know: a note per run, one follower process, and notes about outages.

Nothing here imports MLflow or waits for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import sslpipe
from sslpipe.core import scratch
from sslpipe.tracking.journal import try_lock

VIEW = "sslpipe"  # the saved view of the table of runs
_started: list[subprocess.Popen[bytes]] = []  # kept, as a forgotten Popen warns that its process runs on
PATIENCE = 600.0  # seconds after an outage in which no new follower is tried


def store_uri(uri: str | None = None) -> str:
    """Where MLflow keeps runs: the setting, else `MLFLOW_TRACKING_URI`, else a SQLite file in the project.

    A relative SQLite path means the project's root, whatever the folder of the process.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = chosen.removeprefix("sqlite:///")
    if path != chosen and path and not path.startswith("/"):
        return f"sqlite:///{scratch.root() / path}"
    return chosen


def served(uri: str) -> bool:
    """Whether a store is a server that keeps artifacts and shows pages by itself."""
    return uri.startswith(("http:", "https:", "databricks"))


def shown(uri: str) -> str:
    """A store's address without the user name and password it may hold."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else uri


def announce(run: str, *, uri: str | None, experiment: str) -> None:
    """Note that a run is to be mirrored, and start the follower unless one is at work or the store is out."""
    address = store_uri(uri)
    note = pending() / f"{run}.json"
    scratch.write_json(note, {"run": run, "uri": address, "experiment": experiment})
    note.chmod(0o600)  # an address may hold a password
    if not recent_outage(address) and not _locked(follower_lock()):
        start_follower()


def pending() -> Path:
    """The folder with one note for each run that MLflow does not show in full yet."""
    return scratch.folder("tracking", "pending")


def dismiss(run: str) -> None:
    """Take away a run's note: MLflow shows it in full."""
    with suppress(OSError):
        (pending() / f"{run}.json").unlink()


def follower_lock() -> Path:
    """The lock that the follower holds while it works."""
    return scratch.folder("tracking") / "follower.lock"


def start_follower() -> subprocess.Popen[bytes]:
    """Start the follower in a session of its own, so that no Ctrl-C or kill of a stage reaches it."""
    log = scratch.folder("tracking") / "follower.log"
    with open(log, "ab" if log.exists() and log.stat().st_size < 2**20 else "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sslpipe.tracking.follower"],
            cwd=Path(sslpipe.__file__).parents[
                1
            ],  # the package that runs now, also in an experiment's workspace
            env={**os.environ, "DVC_ROOT": str(scratch.root().resolve())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _started.append(process)
    return process


def note_page(uri: str, experiment: str, number: str) -> None:
    """Remember MLflow's number of an experiment, so that its page is found without asking."""
    path = _page_path(uri, experiment)
    if not path.is_file() or path.read_text() != number:
        scratch.atomic_write(path, number)


def page(uri: str, experiment: str) -> str:
    """The path of MLflow's page with one row an experiment and the headline metrics beside it."""
    try:
        number = _page_path(uri, experiment).read_text()
    except OSError:
        return "/"
    return f"/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _page_path(uri: str, experiment: str) -> Path:
    return scratch.folder("tracking") / f"page-{scratch.digest([uri, experiment])[:8]}"


def note_outage(uri: str, reason: str) -> None:
    """Remember that a store did not answer; whom it was said to already is kept."""
    said = (_outage(uri) or {}).get("said", "")
    scratch.write_json(
        _outage_path(uri), {"uri": shown(uri), "reason": reason, "time": time.time(), "said": said}
    )


def clear_outage(uri: str) -> None:
    """Forget the outage of a store that answers again."""
    with suppress(OSError):
        _outage_path(uri).unlink()


def recent_outage(uri: str) -> bool:
    """Whether the store did not answer a short while ago."""
    outage = _outage(uri)
    return outage is not None and 0 <= time.time() - outage["time"] < PATIENCE


def outage_to_warn_of(uri: str | None, key: str) -> str | None:
    """The one sentence for the user about an outage; none without one or when this pipeline run said it."""
    address = store_uri(uri)
    if not recent_outage(address):
        return None
    outage = _outage(address)
    here = f"{key}:{os.getpgrp()}"  # a pipeline run: one experiment in one process group
    if outage is None or outage["said"] == here:
        return None
    scratch.write_json(_outage_path(address), {**outage, "said": here})
    return (
        f"MLflow at {outage['uri']} did not take this run ({outage['reason']}); the pipeline goes on, "
        "nothing is lost: run `sslpipe sync` when it is back"
    )


def _outage_path(uri: str) -> Path:
    return scratch.folder("tracking") / f"outage-{scratch.digest(uri)[:8]}.json"


def _outage(uri: str) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(_outage_path(uri).read_text())
    except (OSError, ValueError):
        return None
    return content


def _locked(path: Path) -> bool:
    with try_lock(path) as free:
        return not free
