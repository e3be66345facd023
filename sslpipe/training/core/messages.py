"""What processes that train tell the one that started them: files in a folder that it names to them. No torch here."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError

LAUNCHED = "SSLPIPE_LAUNCHED"  # the folder; a process without it was started by a user, or by torchrun
LAUNCHER = "SSLPIPE_LAUNCHER"  # the process that started this one: without it, this one stops


def tell(name: str, **facts: Any) -> None:
    """Leave word for the process that started this one, if one did. The first word under a name is kept."""
    if folder := os.environ.get(LAUNCHED):
        own = Path(folder, f".{name}.{os.getpid()}")
        own.write_text(json.dumps(facts))
        with contextlib.suppress(FileExistsError):
            os.link(own, Path(folder, f"{name}.json"))
        own.unlink()


def told(folder: Path, name: str) -> dict[str, Any] | None:
    """What was told under this name."""
    try:
        facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    except FileNotFoundError:
        return None
    return facts


def raise_if_ended(folder: Path, received: int | None) -> None:
    """Raise a UserError if the processes say that they failed, SystemExit if a signal has stopped them."""
    outcome = told(folder, "outcome") or {}
    if "failed" in outcome:
        raise UserError(outcome["failed"])
    if received or "stopped" in outcome:
        raise SystemExit(128 + (received or outcome["stopped"]))
