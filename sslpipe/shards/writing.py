"""What the writers of shards have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sslpipe.shards.images import Stored
from sslpipe.shards.manifest import Shard


@dataclass(frozen=True)
class Placed:
    """Where an image's bytes lie in a shard; `raw`: they are pixels, uint8 [H, W, 3]."""

    offset: int
    bytes: int
    raw: bool


class Writer(Protocol):
    """One shard, which has its name once it is finished."""

    def add(self, place: int, key: str, stored: Stored, label: int) -> Placed:
        """Write an image: its place in the split, its name, its label (-1: none)."""
        ...

    def finish(self) -> Shard:
        """Close it and give it its name."""
        ...

    def abandon(self) -> None:
        """Leave nothing unfinished behind."""
        ...
