"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """What long work reports to."""

    def update(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more done; `note` is a few words such as "loss 2.31"."""


class _Lines:
    """A line every `every` seconds and one at the end, for pipes and log files."""

    def __init__(self, name: str, total: int, unit: str, done: int, every: float = 10.0) -> None:
        self.name, self.total, self.unit, self.done, self.every = name, total, unit, done, every
        self.first, self.start, self.last, self.note = done, time.monotonic(), time.monotonic(), ""

    def update(self, amount: int = 1, note: str = "") -> None:
        self.done, self.note = self.done + amount, note or self.note
        if time.monotonic() - self.last >= self.every:
            self.say()

    def say(self) -> None:
        self.last = time.monotonic()
        elapsed = self.last - self.start
        rate = (self.done - self.first) / max(elapsed, 1e-9)
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        note = f", {self.note}" if self.note else ""
        said = f"{self.done}/{self.total} {self.unit}, {rate:.1f}/s, {elapsed:.0f} s{left}{note}"
        print(f"{self.name}: {said}", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, name: str, total: int, unit: str, done: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, desc=name, unit=f" {unit}", initial=done, dynamic_ncols=True, leave=True)

    def update(self, amount: int = 1, note: str = "") -> None:
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(amount)


@contextmanager
def progress(name: str, total: int, unit: str = "steps", done: int = 0) -> Iterator[Progress]:
    """Report long work of `total` units, `done` of them from an earlier run, on standard error."""
    if sys.stderr.isatty():
        try:
            bar = _Bar(name, total, unit, done)
        except ImportError:
            pass
        else:
            with bar.bar:
                yield bar
            return
    lines = _Lines(name, total, unit, done)
    yield lines
    lines.say()
