"""A source: images of two splits, each read when it is asked for. Nothing here imports torch, numpy or Pillow."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

#: An array of numpy's, uint8 [H, W] or [H, W, 3]. It is not named so that whoever lists images need not import numpy.
Array = Any
SPLITS = ("train", "test")


class Item(Protocol):
    """One image of a source: a name that can be printed, a class (-1: none), and a way to read it."""

    @property
    def key(self) -> str:
        """Its name, for messages and lists."""
        ...

    @property
    def label(self) -> int:
        """Its class, -1 for none."""
        ...

    def read(self, limit: int) -> bytes | Array:
        """The encoded file, at most `limit` + 1 bytes of it, or uint8 pixels [H, W] or [H, W, 3]."""
        ...


@dataclass(frozen=True)
class Source:
    """Images and how to split them. `recipe` overrides the views' settings, `notes` are for the user."""

    name: str
    classes: tuple[str, ...] | None
    splits: Mapping[str, Sequence[Item]]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    def items(self, split: str) -> Sequence[Item]:
        """The images of `train` or `test`, in an order that depends on nothing but names and seed."""
        return self.splits[split]


@dataclass(frozen=True, slots=True)
class File:
    """An image in a file of its own."""

    key: str
    label: int
    path: str

    def read(self, limit: int) -> bytes:
        """See `Item.read`."""
        with open(self.path, "rb") as file:
            return file.read(limit + 1)


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image as pixels, uint8 [H, W] or [H, W, 3]."""

    key: str
    label: int
    pixels: Array

    def read(self, limit: int) -> Array:
        """See `Item.read`."""
        return self.pixels


def drawn(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in an order drawn by seed, each by the digest of its own name.

    So shards mix the classes, as readers that stream them need, and an image that comes or goes moves no
    other.
    """

    def draw(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}/{item.key}".encode()).digest()

    return sorted(items, key=draw)


def split(items: Sequence[Item], test_fraction: float, seed: int) -> dict[str, list[Item]]:
    """Cut a part for testing off every class; each class of two or more has images on both sides."""
    by_class: defaultdict[int, list[Item]] = defaultdict(list)
    mixed = drawn(items, seed)
    for item in mixed:
        by_class[item.label].append(item)
    test: set[int] = set()
    for members in by_class.values():
        wanted = min(max(round(len(members) * test_fraction), 1), len(members) - 1)
        test.update(id(item) for item in members[:wanted])
    # Test images stay in the source's order, which is that of their names.
    return {
        "train": [item for item in mixed if id(item) not in test],
        "test": [item for item in items if id(item) in test],
    }
