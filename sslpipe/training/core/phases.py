"""The phases of a training step, for whoever times them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

FORWARD, BACKWARD, OPTIMISER = "forward", "backward", "optimiser"

#: From the name of a phase to the context that a part of it runs in; a step enters some phases more than once.
Phase = Callable[[str], AbstractContextManager[object]]


def untimed(name: str) -> AbstractContextManager[object]:
    """The context of every phase where none is timed: it does nothing."""
    return nullcontext()
