"""How a folder of images is laid out: which are for training, which for testing, and what their classes are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from sslpipe.sharding.scan import Scan, printable

_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True)
class Arrangement:
    """The splits as (path, class name or None); `test` is None if the folder has no such split."""

    train: tuple[tuple[str, str | None], ...]
    test: tuple[tuple[str, str | None], ...] | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]


def arrange(found: Scan) -> Arrangement:
    """Find the layout: `{train,test}/class/*`, `class/*`, or images without labels, flat or nested.

    A folder that alone holds everything (an unpacked archive) is stepped into. Subfolders are classes if there are two
    or more and no image lies beside them. `val`, `valid`, `validation` or `testing` serve as `test`.
    """
    paths = [image.path for image in found.images]
    base = _base(paths)
    inner = [path[len(base) :] for path in paths]
    tops = sorted({path.split("/", 1)[0] for path in inner if "/" in path})
    train, test = _named(tops, _TRAIN_NAMES), _named(tops, _TEST_NAMES)
    notes = _without_images(found)
    if train is None or test is None:
        return _label({base: paths}, notes)
    prefixes = (f"{base}{train}/", f"{base}{test}/")
    outside = sum(not path.startswith(prefixes) for path in paths)
    if outside:
        notes.append(f"{outside} images outside {train}/ and {test}/ are not used")
    splits = {prefix: [path for path in paths if path.startswith(prefix)] for prefix in prefixes}
    return _label(splits, notes)


def _label(splits: dict[str, list[str]], notes: list[str]) -> Arrangement:
    """Take the folders below each split's prefix for classes, where they can be."""
    folders: dict[str, set[str]] = {}  # of each split with labels, its class folders
    for prefix, paths in splits.items():
        inner = [path.removeprefix(prefix) for path in paths]
        tops = {path.split("/", 1)[0] for path in inner if "/" in path}
        beside = sum("/" not in path for path in inner)
        if not beside:
            folders[prefix] = tops
        elif tops:
            notes.append(
                f"labels are not used in {prefix or 'data.root'}: {beside} images lie beside the folders "
                f"{_few(tops)}, so these are not taken for classes"
            )
    names = sorted(set().union(*folders.values()))
    if len(names) < 2:
        folders, names = {}, []
    train, *test = (
        tuple((path, path[len(prefix) :].split("/", 1)[0] if prefix in folders else None) for path in paths)
        for prefix, paths in splits.items()
    )
    if len(folders) == 2:
        trained, tested = folders.values()
        if tested - trained:
            notes.append(f"classes with test images but none to train on: {_few(tested - trained)}")
    return Arrangement(train, test[0] if test else None, tuple(names) or None, tuple(notes))


def _base(paths: Sequence[str]) -> str:
    """The innermost folder that holds every image, as a prefix with `/`, or nothing."""
    # What the first and the last in order have in common, all between them have too.
    common = os.path.commonpath([os.path.dirname(path) for path in (min(paths), max(paths))])
    return f"{common}/" if common else ""


def _without_images(found: Scan) -> list[str]:
    """A note that names the folders with no image at any depth, the outermost of each."""
    paths = (image.path.split("/") for image in found.images)
    full = {"/".join(parts[:depth]) for parts in paths for depth in range(len(parts))}
    empty = {path for path in found.folders if path not in full and path.rpartition("/")[0] in full}
    return [f"folders without images: {_few(empty)}"] if empty else []


def _named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in wanted if name in lower), None)


def _few(names: set[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(printable, sorted(names)[:5])) + more
