"""The source `folder`: the images below a folder of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError, explained
from sslpipe.console.spelling import nearest
from sslpipe.core import scratch
from sslpipe.sharding.layout import arrange
from sslpipe.sharding.scan import printable, scan
from sslpipe.sharding.settings import Declaration, Settings
from sslpipe.sharding.source import File, Source, split

SOURCE = Declaration(about="your images", needs=("root",))


def digest(config: Settings) -> dict[str, Any]:
    """Digest, number and bytes of the images, by their paths, sizes and times."""
    return scan(resolve_root(config.root or "")).summary()


def open_source(config: Settings, seed: int) -> Source:
    """The images in the folder's own splits, or in two drawn by seed."""
    root = resolve_root(config.root or "")
    found = scan(root)
    arranged = arrange(found)
    if arranged.test is None and len(arranged.train) < 2:
        raise UserError(f"data.root: one image in {root} is not enough: training and testing need one each")
    numbers: dict[str | None, int] = {None: -1, **{name: n for n, name in enumerate(arranged.classes or ())}}

    def items(paths: Sequence[tuple[str, str | None]]) -> list[File]:
        return [File(printable(path), numbers[name], os.path.join(root, path)) for path, name in paths]

    test = None if arranged.test is None else items(arranged.test)
    return Source(
        name="folder",
        classes=None if arranged.classes is None else tuple(map(printable, arranged.classes)),
        splits=split(items(arranged.train), config.test_fraction, seed, test),
        notes=arranged.notes,
        ignored=found.ignored,
    )


def resolve_root(root: str) -> Path:
    """The folder that `data.root` names: `~` expanded, relative to the project's root.

    A `UserError` says that it is missing, not a folder, or holds the project itself.
    """
    try:
        path = scratch.root() / Path(root).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.root: the home folder in {root!r} is not known, write the path out") from error
    with explained(f"data.root: reading {path}"):
        if not path.exists():
            raise UserError(f"data.root: there is no folder {path}{_instead(path)}")
        if not path.is_dir():
            raise UserError(f"data.root: {path} is a file, not a folder of images (unpack an archive first)")
    project = scratch.root().resolve()
    if path.resolve() in (project, *project.parents):
        raise UserError(f"data.root: {path} holds this project itself, name the folder with only the images")
    return path


def _instead(path: Path) -> str:
    """What a missing folder may have been meant to be, as the end of a message."""
    existing = next((parent for parent in path.parents if parent.is_dir()), None)
    if existing is None:
        return ""
    wanted = path.relative_to(existing).parts[0]
    try:
        names = [entry.name for entry in existing.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    if near := nearest(wanted, names):
        return f", did you mean {existing / near}?"
    return f" ({existing} is there, but nothing called {wanted} in it)"
