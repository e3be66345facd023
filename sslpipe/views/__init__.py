"""Views: a batch of canvases → what a method trains on, the same for any batch size, worker or device."""

from __future__ import annotations

import importlib
from typing import Any

#: The module of each name.
_OWNERS = {
    "Jitter": "recipe",
    "PatchMask": "recipe",
    "Recipe": "recipe",
    "View": "view",
    "ViewEngine": "engine",
    "ViewSpec": "recipe",
    "centre": "preprocess",
    "matches": "geometry",
    "resolve": "recipe",
}
__all__ = list(_OWNERS)


def __getattr__(name: str) -> Any:
    # Lazy, so that settings can read a recipe without the cost of importing torch.
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_OWNERS[name]}"), name)
