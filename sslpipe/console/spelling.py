"""The nearest right spelling of a name that a user wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name closest in spelling; None where none is alike by `cutoff`, from 0 (anything) to 1 (the same)."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def meant(word: str, known: Iterable[str]) -> str:
    """' (did you mean x?)' for the nearest known spelling, or nothing."""
    found = nearest(word, known)
    return f" (did you mean {found!r}?)" if found else ""
