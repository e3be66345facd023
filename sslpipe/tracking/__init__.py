"""What every stage did, kept in files (the truth) and shown by MLflow (a mirror that can be rebuilt)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslpipe.tracking.experiments import code_digest, experiment_key
    from sslpipe.tracking.record import Config, Record, restore

__all__ = ["Config", "Record", "code_digest", "experiment_key", "restore"]

_OWNERS = {
    "Config": "record",
    "Record": "record",
    "restore": "record",
    "code_digest": "experiments",
    "experiment_key": "experiments",
}


def __getattr__(name: str) -> Any:
    if owner := _OWNERS.get(name):
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{owner}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
