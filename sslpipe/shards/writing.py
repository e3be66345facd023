"""What the writers of shards have in common."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from sslpipe.console.errors import explain_os_error, explained
from sslpipe.shards.images import Stored
from sslpipe.shards.manifest import Shard


class Placed(NamedTuple):
    """Where an image's bytes lie in a shard; `raw`: they are pixels, uint8 [H, W, 3]."""

    offset: int
    bytes: int
    raw: bool


class Writer(ABC):
    """One shard, under a temporary name until it is finished. The same images give the same bytes.

    It and its methods raise a `UserError` where the disk is full or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.part")
        self.count = 0
        with explained(f"writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.temporary, "wb")  # noqa: SIM115 (closed by finish or abandon)

    def add(self, place: int, key: str, stored: Stored, label: int) -> Placed:
        """Write an image: its place in the split, its name, its label (-1: none)."""
        try:
            placed = self._add(place, key, stored, label)
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from error
        self.count += 1
        return placed

    def finish(self) -> Shard:
        """Close it and give it its name; the system may not have written all of it yet."""
        with explained(f"writing {self.path}"):
            digest = self._complete()
            size = self.temporary.stat().st_size
            os.replace(self.temporary, self.path)
        name = f"{self.path.parent.name}/{self.path.name}"
        return Shard(path=name, sha256=digest, bytes=size, count=self.count)

    def abandon(self) -> None:
        """Leave nothing unfinished behind; what is finished stays."""
        with contextlib.suppress(OSError):  # the buffer's rest may not fit either
            self.file.close()
        self.temporary.unlink(missing_ok=True)

    @abstractmethod
    def _add(self, place: int, key: str, stored: Stored, label: int) -> Placed: ...

    @abstractmethod
    def _complete(self) -> str:
        """Write what comes after the last image, close the file, and give its sha256."""
