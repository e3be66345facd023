"""The GPU that is pretended, and torch's own functions meanwhile."""

from __future__ import annotations

from typing import Any

from pretended.notes import Gpu

GPU: Gpu | None = None
REAL: dict[str, Any] = {}  # torch's functions by name


def gpu() -> Gpu:
    """The GPU that is pretended."""
    assert GPU is not None, "only within `pretending()`"
    return GPU
