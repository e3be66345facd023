"""How loops over pixels are compiled by numba: once for a machine, kept between processes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Pixels are finite, and their last bit may fall either way. Taps are compiled without any of this.
_PIXELS = {"nnan", "ninf", "nsz", "contract", "arcp"}


def exact(function: Callable[..., Any], **options: Any) -> Any:
    """Compile with every rounding where it is written; `options` are numba's own."""
    return numba.njit(function, nogil=True, error_model="numpy", **options)


def pixels(function: Callable[..., Any]) -> Any:
    """Compile for speed: see `_PIXELS`."""
    return exact(function, fastmath=_PIXELS)


def summing(function: Callable[..., Any]) -> Any:
    """As `pixels`, and sums may be added up in any order."""
    return exact(function, fastmath=_PIXELS | {"reassoc"})


def entry(function: Callable[..., Any]) -> Any:
    """As `exact`, and kept for later processes with all that it calls."""
    place = _place(function)
    if place is not None:
        function.__code__ = function.__code__.replace(co_filename=str(place))
    return exact(function, cache=place is not None)


def _place(function: Callable[..., Any]) -> Path | None:
    """A file in the user's cache folder that numba may take for the function's source.

    numba keeps compiled code beside a source file and trusts its path and time. Every clone of the project and
    every temporary workspace has this package under another path, and would compile it anew; and numba does not
    notice a change in another file. So the path is a digest of the file's whole package, and the time always the same.
    """
    source = Path(function.__code__.co_filename)
    digest = hashlib.sha256(numba.__version__.encode())
    for file in (Path(__file__), *sorted(source.parent.glob("*.py"))):
        digest.update(file.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "sslpipe" / f"{source.parent.name}-{digest.hexdigest()[:16]}" / source.name
    try:
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as copy:
                copy.write(source.read_bytes())
            os.utime(copy.name, (0, 0))
            os.replace(copy.name, place)
    except OSError:
        return None  # nowhere to keep it: each process compiles for itself
    return place
