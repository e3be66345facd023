"""Shards as batches: readers of a split, and the loader."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {"Batch": "batch", "Loader": "loader", "Resident": "resident", "open_split": "loader"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # On demand: settings import `data.config`, and should not wait for torch.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
