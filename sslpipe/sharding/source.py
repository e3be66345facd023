"""A source: images of two splits, each read when it is asked for. Nothing here imports torch, numpy or Pillow."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError

#: An array of numpy's, uint8 [H, W] or [H, W, 3]. It is not named so that whoever lists images need not import numpy.
Array = Any
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Item(ABC):
    """One image of a source: a name that can be printed, a class (-1: none), and a way to read it."""

    key: str
    label: int

    @abstractmethod
    def read(self, limit: int) -> bytes | Array:
        """The encoded file, at most `limit` + 1 bytes of it, or uint8 pixels [H, W] or [H, W, 3]."""


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
class File(Item):
    """An image in a file of its own."""

    path: str

    def read(self, limit: int) -> bytes:
        """See `Item.read`."""
        with open(self.path, "rb") as file:
            return file.read(limit + 1)


@dataclass(frozen=True, slots=True)
class Pixels(Item):
    """An image as pixels, uint8 [H, W] or [H, W, 3]."""

    pixels: Array

    def read(self, limit: int) -> Array:
        """See `Item.read`."""
        return self.pixels


def split(
    items: Sequence[Item], test_fraction: float, seed: int, test: Sequence[Item] | None = None
) -> dict[str, Sequence[Item]]:
    """Both splits. Train is in an order drawn by seed, each image by the digest of its own name.

    So shards mix the classes, as readers that stream them need, and an image that comes or goes moves no other. Without
    images to test on, a part of every class is cut off; each class of two or more has images on both sides.
    """
    mixed = sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{item.key}".encode()).digest())
    if test is not None:
        return {"train": mixed, "test": test}
    by_class: defaultdict[int, list[Item]] = defaultdict(list)
    for item in mixed:
        by_class[item.label].append(item)
    cut: set[int] = set()
    for members in by_class.values():
        wanted = min(max(round(len(members) * test_fraction), 1), len(members) - 1)
        cut.update(id(item) for item in members[:wanted])
    # Test images stay in the source's order, which is that of their names.
    return {
        "train": [item for item in mixed if id(item) not in cut],
        "test": [item for item in items if id(item) in cut],
    }


def package_folder(module: str, otherwise: str) -> Path:
    """The folder of a package, which is not imported; a `UserError` of what to do otherwise if it is not installed."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise UserError(otherwise)
    return Path(found.submodule_search_locations[0])
