"""sslpipe: unlabelled images in, an evaluated, exportable vision encoder out, by `dvc repro`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    # Lazy, so that stages which need no torch do not pay for its import.
    if name == "load_encoder":
        return import_module("sslpipe.export").load_encoder
    if name == "evals":
        return import_module("sslpipe.evals")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
