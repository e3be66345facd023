"""Evaluations of an encoder, each beside the same protocol on random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslpipe.measures.knn import knn

__all__ = ["knn"]


def __getattr__(name: str) -> Any:
    if name == "knn":
        from sslpipe.measures.knn import knn

        return knn
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
