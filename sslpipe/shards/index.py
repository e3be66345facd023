"""The index of a split: for each image where its bytes lie, its size, label and digests; one row an image.

It is read by memory map, so a split of any size is open at once. Whatever is missing, damaged, not what the manifest
speaks of or cannot be written raises a `UserError`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sslpipe.console.errors import UserError, explained
from sslpipe.core import scratch
from sslpipe.shards import manifest

#: `shard` is a number among the split's files; `content` and `seen` are for finding duplicates.
COLUMNS = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),  # of the image's bytes in its shard
        ("bytes", "<u4"),
        ("raw", "u1"),  # 1: they are pixels, [height, width, 3]
        ("label", "<i4"),  # -1: none
        ("height", "<u2"),
        ("width", "<u2"),
        ("content", "<u8"),  # the first bytes of the source's sha256
        ("seen", "<u8"),  # duplicates.perceptual_hash
    ]
)


def path(folder: Path, split: str) -> Path:
    """Where a split's index lies in a folder of shards."""
    return folder / split / "index.npy"


def write(folder: Path, split: str, columns: np.ndarray) -> str:
    """Write a split's index; its sha256."""
    buffer = io.BytesIO()
    np.save(buffer, columns, allow_pickle=False)
    scratch.atomic_write(path(folder, split), buffer.getvalue())
    return scratch.bytes_digest(buffer.getvalue())


def read(folder: Path, split: str, known: manifest.Split) -> np.ndarray:
    """A split's index, mapped into memory, by what the manifest of the folder says of the split."""
    file = path(folder, split)
    manifest.check(file, known.index)
    try:
        with explained(f"reading {file}"):
            columns = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{file} is damaged: {manifest.AGAIN}") from error
    if columns.dtype != COLUMNS or columns.shape != (known.count,):
        raise UserError(f"{file} is of another kind: {manifest.AGAIN}")
    return columns


def write_keys(folder: Path, split: str, keys: Iterable[str]) -> None:
    """Write `keys.txt`: a JSON string a line, the names the images had in the source, in the index's order."""
    scratch.atomic_write(folder / split / "keys.txt", "".join(f"{json.dumps(key)}\n" for key in keys))


def read_keys(folder: Path, split: str) -> list[str]:
    """The names that a split's images had in the source."""
    path = folder / split / "keys.txt"
    try:
        with explained(f"reading {path}"):
            return [str(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: run `dvc repro` to make it again") from error
