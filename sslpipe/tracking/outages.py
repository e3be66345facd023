"""Notes about stores that did not answer: they are left alone for a while, and the user is told once."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sslpipe.core import scratch
from sslpipe.tracking.journal import read_json
from sslpipe.tracking.store import shown, store_uri

PATIENCE = 600.0  # seconds after an outage in which the store is not tried again by itself


def note_outage(uri: str, reason: str) -> None:
    """Remember that a store did not answer; whom it was said to already is kept."""
    path = _outage_path(uri)
    said = (read_json(path) or {}).get("said", "")
    scratch.write_json(path, {"uri": shown(uri), "reason": reason, "time": time.time(), "said": said})


def clear_outage(uri: str) -> None:
    """Forget the outage of a store that answers again."""
    with suppress(OSError):
        _outage_path(uri).unlink()


def recent_outage(uri: str) -> bool:
    """Whether the store did not answer a short while ago."""
    return _recent_outage(uri) is not None


def outage_to_warn_of(uri: str | None, key: str) -> str | None:
    """The one sentence for the user about an outage; none without one or when this pipeline run said it."""
    address = store_uri(uri)
    outage = _recent_outage(address)
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


def _recent_outage(uri: str) -> dict[str, Any] | None:
    outage = read_json(_outage_path(uri))
    return outage if outage and 0 <= time.time() - outage["time"] < PATIENCE else None
