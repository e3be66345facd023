"""The source `shards`: tars made elsewhere, on this machine or fetched from an address."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.core import scratch
from sslpipe.sharding import remote, tars
from sslpipe.sharding.settings import Declaration, Settings
from sslpipe.sharding.source import Source, split

SOURCE = Declaration(about="tars of images", needs=("root",), reads=("test_root", "schemes"))

_CLASSES = 1_000_000  # more are a mistake
Label = int | str | None  # as it stands in a tar: a class's number, its name, or nothing


def digest(config: Settings) -> dict[str, Any]:
    """Digest, number and bytes of the tars of each split, by names, sizes and times; none is opened."""
    found = _find(config.root or "", config.test_root, config.schemes)
    states = {part: [(name, *remote.status(name)) for name in names] for part, names in found.items()}
    every = [state for part in states.values() for state in part]
    return {"digest": scratch.digest(states), "count": len(every), "bytes": sum(size for _, size, _ in every)}


def _find(root: str, test_root: str | None, schemes: Iterable[str]) -> dict[str, list[str]]:
    """The tars of each split, as paths or addresses; `test` is missing where the data has no such split."""
    roots = {"train": root}
    if test_root is not None:
        roots["test"] = test_root
    elif not remote.scheme_of(root):
        below = scratch.root() / Path(root).expanduser()
        parts = [below / name for name in ("train", "test", "val") if (below / name).is_dir()]
        if len(parts) > 1 and parts[0].name == "train":
            roots = {"train": str(parts[0]), "test": str(parts[1])}
    try:
        found = {part: remote.expand(pattern, ".tar", schemes) for part, pattern in roots.items()}
    except UserError as error:
        raise UserError(f"data.root: {error}") from error
    if both := set(found["train"]) & set(found.get("test", ())):
        raise UserError(f"data.test_root: {min(both)} is among the tars to train on, too")
    return found


def open_source(config: Settings, seed: int) -> Source:
    """The images of both splits; addresses are fetched first, and every tar's headers are read."""
    members, ignored = _scan(_find(config.root or "", config.test_root, config.schemes))
    labels, classes = _numbered({member.label for part in members.values() for member in part})
    items = {
        part: [replace(member, label=labels[member.label]) for member in some]
        for part, some in members.items()
    }
    for part, some in items.items():
        if len(some) < (1 if "test" in items else 2):
            raise UserError(f"data.root: the {part} tars hold {len(some)} images, which is not enough")
    splits = split(items["train"], config.test_fraction, seed, items.get("test"))
    return Source("shards", classes, splits, ignored=dict(ignored))


def _scan(found: dict[str, list[str]]) -> tuple[dict[str, list[tars.Member]], Counter[str]]:
    """The images of each split, and the files passed over."""
    every = [name for names in found.values() for name in names]
    paths = remote.local(every, scratch.folder("downloads", scratch.digest(every)[:16]))
    common = os.path.commonpath([path.parent for path in paths])
    keys = [os.path.splitext(os.path.relpath(path, common))[0] for path in paths]
    scanned = {}
    with progress("index", len(every), "tars") as bar:
        for name, path, key in zip(every, paths, keys, strict=True):
            scanned[name] = tars.scan(path, key)
            bar.update()
    ignored = sum((contents.ignored for contents in scanned.values()), Counter[str]())
    members = {
        part: [member for name in names for member in scanned[name].members] for part, names in found.items()
    }
    return members, ignored


def _numbered(labels: set[Label]) -> tuple[dict[Label, int], tuple[str, ...] | None]:
    """Each label's class, and the names of the classes; names are numbered in their order."""
    words = sorted(label for label in labels if isinstance(label, str))
    numbers = [label for label in labels if isinstance(label, int)]
    if words and numbers:
        raise UserError(
            f"data.root: some labels are numbers, others names such as {words[0]!r}: make them all one kind"
        )
    if words:
        return {None: -1, **{word: number for number, word in enumerate(words)}}, tuple(words)
    if not numbers:
        return {None: -1}, None
    if max(numbers) >= _CLASSES:
        raise UserError(f"data.root: a label is {max(numbers)}; numbers of classes go up to {_CLASSES - 1}")
    return {None: -1, **{number: number for number in numbers}}, tuple(map(str, range(max(numbers) + 1)))
