"""Data sets that come as Python packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sslpipe.console.errors import UserError


def folder(module: str, otherwise: str) -> Path:
    """The folder of an installed package, which is not imported.

    Args:
        module: its name in Python.
        otherwise: what to say where it is not installed.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise UserError(otherwise)
    return Path(found.submodule_search_locations[0])
