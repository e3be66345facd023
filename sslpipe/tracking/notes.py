"""How a stage lets MLflow know: it leaves a note, and starts `sslpipe sync --follow` unless that is at work.

Nothing here imports MLflow or waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import sslpipe
from sslpipe.core import scratch
from sslpipe.tracking.journal import read_json
from sslpipe.tracking.store import chosen_uri, recent_outage, store_uri

_started: list[subprocess.Popen[bytes]] = []  # kept, as a forgotten Popen warns that its process runs on


def announce(run: str, *, uri: str | None, experiment: str) -> None:
    """Note that MLflow is to show a run, and start the follower unless one is at work or the store is out."""
    note = pending() / f"{run}.json"
    # The address as it was written: one of a file would lead to the project's former place after a move.
    scratch.write_json(note, {"run": run, "uri": chosen_uri(uri), "experiment": experiment})
    note.chmod(0o600)  # an address may hold a password
    if not recent_outage(store_uri(uri)) and not following():
        start_follower()


def pending() -> Path:
    """The folder with one note for each run that MLflow does not show in full yet."""
    return scratch.folder("tracking", "pending")


def waiting() -> list[dict[str, Any]]:
    """Notes of the runs that MLflow is to show, oldest first, without those whose store is out."""
    found = filter(None, map(read_json, sorted(pending().glob("*.json"))))
    notes = [{**note, "uri": store_uri(note["uri"])} for note in found]
    return [note for note in notes if not recent_outage(note["uri"])]


def dismiss(run: str) -> None:
    """Take away a run's note: MLflow shows it in full."""
    with suppress(OSError):
        (pending() / f"{run}.json").unlink()


def follower_lock() -> Path:
    """The lock that the follower holds while it works."""
    return scratch.folder("tracking") / "follower.lock"


def following() -> bool:
    """Whether a follower is at work."""
    return scratch.is_locked(follower_lock())


def start_follower() -> subprocess.Popen[bytes]:
    """Start `sslpipe sync --follow` in a session of its own, so that no Ctrl-C or kill of a stage reaches it."""
    log = scratch.folder("tracking") / "follower.log"
    package = Path(sslpipe.__file__).parents[1]  # the one that runs now, also in an experiment's workspace
    with open(log, "ab" if log.exists() and log.stat().st_size < 2**20 else "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sslpipe", "sync", "--follow"],
            cwd=package,
            env={**os.environ, "DVC_ROOT": str(scratch.root().resolve())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _started.append(process)
    return process
