"""A piece of a split: the images of one shard, read, checked, scaled and written. The unit of sharding's work.

A piece depends on nothing but its own images, so pieces can be made in any order, by any process, on any machine, and
their files are the same.
"""

from __future__ import annotations

import errno
import functools
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
from sslpipe.sharding.config import Config
from sslpipe.sharding.duplicates import perceptual_hash
from sslpipe.sharding.scan import UNREADABLE
from sslpipe.sharding.source import Item
from sslpipe.shards import beton, images, index, manifest, webdataset, writing
from sslpipe.shards.manifest import Reject, Shard

#: What one file's fault may be; anything else (too many open files, …) is the machine's and stops the work.
_FILE_FAULTS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP, errno.EIO, errno.EISDIR, errno.ENOTDIR}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What to make: images `first`, `first` + 1, … of all of a split, usable or not, in the split's file `number`."""

    split: str
    number: int
    first: int
    items: Sequence[Item]
    config: Config

    @property
    def name(self) -> str:
        """The shard's name below a folder of shards, without its extension."""
        return f"{self.split}/{self.split}-{self.number:06d}"

    def writer(self, folder: Path) -> writing.Writer:
        """What writes the shard below a folder."""
        path, config = folder / self.name, self.config
        if config.format == "ffcv":
            return beton.Writer(path.with_suffix(".beton"), len(self.items), config.resolution, config.pixels)
        return webdataset.Writer(path.with_suffix(".tar"))


@dataclass(frozen=True)
class Report:
    """What came of a piece."""

    shard: Shard | None  # None if no image could be used
    columns: np.ndarray  # a row for each image kept, see `index.COLUMNS`
    keys: tuple[str, ...]  # the names they had in the source
    rejects: tuple[Reject, ...]  # the images left out
    histogram: np.ndarray  # counts of the levels 0 to 255 of each channel, int64 [3, 256]
    contents: int  # the sum of all images' digests, of name, label and content, modulo 2²⁵⁶

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        words = {
            "shard": self.shard and self.shard.model_dump(),
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
            shard = words["shard"] and Shard(**words["shard"])
            if shard is not None:
                manifest.check(path.parents[1] / shard.path, shard.sha256)
        except (UserError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        rejects = tuple(Reject(key=key, reason=reason) for key, reason in words["rejects"])
        return cls(shard, columns, tuple(words["keys"]), rejects, histogram, int(words["contents"], 16))


@dataclass(frozen=True)
class _Result:
    """What a thread makes of an item: an image to store and its perceptual hash, or the reason why not."""

    digest: bytes
    stored: images.Stored | None = None
    seen: int = 0
    reason: str = ""


def report_path(folder: Path, piece: Piece) -> Path:
    """Where a piece's report is kept."""
    return folder / f"{piece.name}.npz"


def make(piece: Piece, folder: Path, *, threads: int = 1, tick: Callable[[], None] = lambda: None) -> Report:
    """Write a piece's shard into a folder and, when that is complete, its report; both get their names when whole.

    So many threads read and decode; `tick` is called after each image. A `UserError` says that the disk is full or
    cannot be written, or that a file cannot be read and the machine is to blame.
    """
    rows, keys, rejects = [], [], []
    histogram, contents = np.zeros((3, 256), np.int64), 0
    writer = piece.writer(folder)
    try:
        with closing(_results(piece, threads)) as results:
            for place, (item, result) in enumerate(zip(piece.items, results, strict=True), start=piece.first):
                contents += _content(piece.split, item, result.digest)
                tick()
                if (stored := result.stored) is None:
                    rejects.append(Reject(key=item.key, reason=result.reason))
                    continue
                placed = writer.add(place, item.key, stored, item.label)
                histogram += np.array(stored.image.histogram(), np.int64).reshape(-1, 256)  # [1 or 3, 256]
                width, height = stored.image.size
                exact = int.from_bytes(result.digest[:8], "little")
                rows.append((piece.number, *placed, item.label, height, width, exact, result.seen))
                keys.append(item.key)
        shard = writer.finish() if keys else None
    finally:
        writer.abandon()  # nothing, once it is finished
    columns = np.array(rows, index.COLUMNS)
    report = Report(shard, columns, tuple(keys), tuple(rejects), histogram, contents % 2**256)
    report.save(report_path(folder, piece))
    return report


def _content(split: str, item: Item, digest: bytes) -> int:
    """One image's digest as a number: a sum of these does not depend on the images' order."""
    words = json.dumps([split, item.key, item.label]).encode()
    return int.from_bytes(hashlib.sha256(words + digest).digest(), "big")


def _results(piece: Piece, threads: int) -> Generator[_Result]:
    result = functools.partial(_result, piece.config)
    with images.limits(piece.config.max_pixels):
        if threads == 1:
            yield from map(result, piece.items)
        else:
            yield from ordered_map(result, piece.items, threads=threads, ahead=4 * threads)


def _result(config: Config, item: Item) -> _Result:
    digest = b""
    try:
        data = _read(item, config.max_bytes)
        digest = hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).digest()
        stored = images.store(data, resolution=config.resolution, max_pixels=config.max_pixels)
    except images.BadImage as error:
        extension = os.path.splitext(item.key)[1].lower()
        unread = error.reason == "not an image" and extension in UNREADABLE
        return _Result(digest, reason=f"format not read ({extension})" if unread else error.reason)
    return _Result(digest, stored, perceptual_hash(stored.image) if config.duplicates else 0)


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
