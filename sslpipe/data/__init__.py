"""Images as stored (sources, shards, manifest) and as batches (readers, loader)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslpipe.data.batch import Batch
    from sslpipe.data.loader import Loader, open_split
    from sslpipe.data.resident import Resident

__all__ = ["Batch", "Loader", "Resident", "open_split"]

_HOMES = {"Batch": "batch", "Loader": "loader", "Resident": "resident", "open_split": "loader"}


def __getattr__(name: str) -> Any:
    # Lazy, so that the stages that only read or write shards do not pay for torch's import.
    if name in _HOMES:
        return getattr(import_module(f"sslpipe.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
