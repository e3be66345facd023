"""A piece of a split: the images of one shard, read, checked, scaled and written. The unit of sharding's work.

A piece depends on nothing but its own images, so pieces can be made in any order, by any process, on any
machine, and their files are the same.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.core import scratch
from sslpipe.core.threads import ordered_map
from sslpipe.sharding.duplicates import perceptual_hash
from sslpipe.sharding.scan import UNREADABLE
from sslpipe.sharding.source import Item
from sslpipe.shards import beton, images, webdataset
from sslpipe.shards.index import COLUMNS
from sslpipe.shards.manifest import Reject, Shard
from sslpipe.shards.writing import Writer

#: What one file's fault may be; anything else (too many open files, …) is the machine's and stops the work.
_FILE_FAULTS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP, errno.EIO, errno.EISDIR, errno.ENOTDIR}
Tick = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What to make: images `first`, `first` + 1, … of a split, in one file.

    Args:
        split: `train` or `test`.
        number: of the shard within its split.
        first: the place of its first image among all images of the split, usable or not.
        items: the images.
        resolution: the canvas side.
        max_pixels: images of more are left out.
        max_bytes: image files of more are left out.
        hashed: take perceptual hashes.
        format: `webdataset` or `ffcv`.
        pixels: with ffcv, keep every image as pixels.
    """

    split: str
    number: int
    first: int
    items: Sequence[Item]
    resolution: int
    max_pixels: int
    max_bytes: int
    hashed: bool
    format: str = "webdataset"
    pixels: bool = False

    @property
    def name(self) -> str:
        """The shard's name below a folder of shards, without its extension."""
        return f"{self.split}/{self.split}-{self.number:06d}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a piece.

    Args:
        shard: the file; None if no image could be used.
        columns: a row for each image kept, see `index.COLUMNS`.
        keys: the names they had in the source.
        rejects: the images left out.
        histogram: counts of the levels 0 to 255 of each channel, int64 [3, 256].
        contents: the sum of all images' digests, of name, label and content, modulo 2²⁵⁶.
    """

    shard: Shard | None
    columns: np.ndarray
    keys: tuple[str, ...]
    rejects: tuple[Reject, ...]
    histogram: np.ndarray
    contents: int

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        words = {
            "shard": None if self.shard is None else self.shard.model_dump(),
            "keys": self.keys,
            "rejects": [(reject.key, reject.reason) for reject in self.rejects],
            "contents": f"{self.contents:064x}",
        }
        text = np.frombuffer(json.dumps(words).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, columns=self.columns, histogram=self.histogram, words=text)
        # Not durable: shards are made safe together at the end, and what a power failure leaves is checked by digest.
        scratch.atomic_write(path, buffer.getvalue(), durable=False)

    @classmethod
    def load(cls, path: Path) -> Report | None:
        """The report in a file, None unless it and the shard beside it are there and whole."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                words = json.loads(file["words"].tobytes())
                columns, histogram = file["columns"], file["histogram"]
            shard = None if words["shard"] is None else Shard(**words["shard"])
            if shard is not None:
                webdataset.check(path.parents[1] / shard.path, shard)
        except UserError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return cls(
            shard=shard,
            columns=columns,
            keys=tuple(words["keys"]),
            rejects=tuple(Reject(key=key, reason=reason) for key, reason in words["rejects"]),
            histogram=histogram,
            contents=int(words["contents"], 16),
        )


@dataclass(frozen=True)
class _Result:
    """What a thread makes of an item: an image to store and its hash, or the reason why not."""

    digest: bytes
    stored: images.Stored | None
    seen: int = 0
    reason: str = ""


def report_path(folder: Path, piece: Piece) -> Path:
    """Where a piece's report is kept."""
    return folder / f"{piece.name}.npz"


def make(piece: Piece, folder: Path, *, threads: int = 1, tick: Tick = lambda: None) -> Report:
    """Write a piece's shard and, when that is complete, its report.

    Args:
        piece: what to make.
        folder: of shards; the piece's files get their names when they are whole.
        threads: that read and decode.
        tick: called after each image.

    Raises:
        UserError: the disk is full or cannot be written; a file cannot be read and the machine is to blame.
    """
    columns, keys, rejects = [], [], []
    histogram, contents = np.zeros((3, 256), np.int64), 0
    writer = _writer(piece, folder)
    try:
        with closing(_results(piece, threads)) as results:
            for place, (item, result) in enumerate(zip(piece.items, results, strict=True), start=piece.first):
                contents += _content(piece.split, item, result.digest)
                tick()
                if result.stored is None:
                    rejects.append(Reject(key=item.key, reason=result.reason))
                    continue
                stored = result.stored
                placed = writer.add(place, item.key, stored, item.label)
                histogram += np.array(stored.image.histogram(), np.int64).reshape(-1, 256)  # [1 or 3, 256]
                width, height = stored.image.size
                exact = int.from_bytes(result.digest[:8], "little")
                where = (piece.number, placed.offset, placed.bytes, placed.raw)
                columns.append((*where, item.label, height, width, exact, result.seen))
                keys.append(item.key)
        shard = writer.finish() if keys else None
    finally:
        writer.abandon()  # nothing, once it is finished
    report = Report(
        shard=shard,
        columns=np.array(columns, COLUMNS),
        keys=tuple(keys),
        rejects=tuple(rejects),
        histogram=histogram,
        contents=contents % 2**256,
    )
    report.save(report_path(folder, piece))
    return report


def _writer(piece: Piece, folder: Path) -> Writer:
    if piece.format == "ffcv":
        path = folder / f"{piece.name}.beton"
        return beton.Writer(path, len(piece.items), piece.resolution, piece.pixels)
    return webdataset.Writer(folder / f"{piece.name}.tar")


def _content(split: str, item: Item, digest: bytes) -> int:
    """One image's digest as a number: a sum of these does not depend on the images' order."""
    words = json.dumps([split, item.key, item.label]).encode()
    return int.from_bytes(hashlib.sha256(words + digest).digest(), "big")


def _results(piece: Piece, threads: int) -> Generator[_Result]:
    with images.limits(piece.max_pixels):
        if threads == 1:
            yield from (_result(piece, item) for item in piece.items)
        else:
            yield from ordered_map(
                lambda item: _result(piece, item), piece.items, threads=threads, ahead=4 * threads
            )


def _result(piece: Piece, item: Item) -> _Result:
    digest = b""
    try:
        data = _read(item, piece.max_bytes)
        digest = hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).digest()
        stored = images.store(data, resolution=piece.resolution, max_pixels=piece.max_pixels)
    except images.BadImage as error:
        extension = os.path.splitext(item.key)[1].lower()
        unread = error.reason == "not an image" and extension in UNREADABLE
        return _Result(digest, None, reason=f"format not read ({extension})" if unread else error.reason)
    return _Result(digest, stored, perceptual_hash(stored.image) if piece.hashed else 0)


def _read(item: Item, limit: int) -> bytes | np.ndarray:
    try:
        data = item.read(limit)
    except OSError as error:
        if error.errno in _FILE_FAULTS:
            raise images.BadImage(f"cannot be read: {(error.strerror or 'unknown error').lower()}") from error
        raise explain_os_error(error, f"reading {item.key}") from error
    except UserError as error:
        raise UserError(f"reading {item.key}: {error}") from error
    if isinstance(data, bytes) and len(data) > limit:
        raise images.BadImage("more bytes than shard.max_bytes")
    return data
