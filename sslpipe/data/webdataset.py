"""Write and read WebDataset tar shards: `000000042.png` and `000000042.cls` side by side.

The standard library's tarfile does both. The webdataset package reads these shards (tested), but importing it
imports torch, which would cost the stage that writes them more time than the writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sslpipe import scratch
from sslpipe.data.manifest import Shard
from sslpipe.errors import UserError, explain_os_error

IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
_LABEL = "cls"
_LABEL_BYTES = 20


@dataclass(frozen=True)
class Sample:
    """One sample: its name in the source (or its key in a shard), label (-1: none) and encoded image."""

    key: str
    label: int
    image: bytes
    extension: str


class ShardError(UserError):
    """A shard that is not what the manifest says, or holds what no shard should."""


def check(path: Path, shard: Shard) -> None:
    """Compare a shard's bytes with the manifest.

    Raises:
        ShardError: it is missing or differs.
    """
    again = "run `dvc repro` to make the shards again"
    try:
        same = path.stat().st_size == shard.bytes and scratch.file_digest(path) == shard.sha256
    except FileNotFoundError as error:
        raise ShardError(f"{path} is missing: {again}") from error
    except OSError as error:
        raise explain_os_error(error, f"reading {path}") from error
    if not same:
        raise ShardError(f"{path} is not what its manifest says (damaged or changed): {again}")


def iterate(path: Path, *, max_bytes: int) -> Iterator[Sample]:
    """The samples of one shard, in order. Nothing is extracted.

    Args:
        path: an uncompressed tar.
        max_bytes: the most one image may have.

    Raises:
        ShardError: a member is a link or special file, has an absolute, climbing or repeated name, an
            extension that is not allowed, or too many bytes; a sample lacks its image; the tar is damaged.
    """
    seen: set[str] = set()
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name, extension = _checked_name(path, member)
                if name != key:
                    if parts:
                        yield _sample(path, key, parts)
                    if name in seen:
                        raise ShardError(f"{path}: sample {name} comes twice, or its files are apart")
                    key, parts = name, {}
                    seen.add(name)
                if extension in parts or (extension in IMAGES and IMAGES & parts.keys()):
                    raise ShardError(f"{path}: sample {name} has two files of one kind")
                if member.size > (_LABEL_BYTES if extension == _LABEL else max_bytes):
                    raise ShardError(f"{path}: {member.name} has {member.size} bytes, more than is allowed")
                file = tar.extractfile(member)
                data = b"" if file is None else file.read()
                if len(data) != member.size:
                    raise ShardError(f"{path} is cut short")
                parts[extension] = data
            if parts:
                yield _sample(path, key, parts)
    except tarfile.TarError as error:
        raise ShardError(f"{path} is damaged ({error})") from error
    except OSError as error:
        raise explain_os_error(error, f"reading {path}") from error


def _checked_name(path: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    """Key and extension, split at the first dot of the last part, as WebDataset does."""
    name = member.name
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        raise ShardError(f"{path}: {name!r} is not a plain file")
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ShardError(f"{path}: {name!r} is not a name a shard may hold")
    stem, _, extension = parts[-1].partition(".")
    extension = extension.lower()
    if not stem or extension not in IMAGES | {_LABEL}:
        raise ShardError(
            f"{path}: {name!r} is of no kind a shard may hold ({', '.join(sorted(IMAGES))}, {_LABEL})"
        )
    return "/".join([*parts[:-1], stem]), extension


def _sample(path: Path, key: str, parts: dict[str, bytes]) -> Sample:
    extension = next(iter(IMAGES & parts.keys()), None)
    if extension is None:
        raise ShardError(f"{path}: sample {key} has no image")
    label = parts.get(_LABEL, b"-1")
    if not re.fullmatch(rb"-1|[0-9]{1,9}", label):
        raise ShardError(f"{path}: the label of sample {key} is not a number")
    return Sample(key, int(label), parts[extension], extension)


class Writer:
    """One tar, under a temporary name until it is finished, hashed as it is written.

    The same samples give the same bytes. `abandon` leaves nothing behind, unless the file is finished.

    Raises:
        UserError: the disk is full or cannot be written; so do its methods.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.part")
        self.count = self.bytes = 0
        self.sha256 = hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.temporary, "wb")  # noqa: SIM115 (closed by finish or abandon)
        except OSError as error:
            raise explain_os_error(error, f"writing {path}") from error
        # A stream is never sought in, so its digest can be taken on the way.
        self.tee = _Tee(self)
        self.tar = tarfile.open(mode="w|", fileobj=self.tee, format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, place: int, image: bytes, extension: str, label: int) -> int:
        """Write an image under its place, and its label if it has one; where the image's bytes begin."""
        try:
            offset = self._member(f"{place:09d}.{extension}", image)
            if label >= 0:
                self._member(f"{place:09d}.{_LABEL}", str(label).encode())
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from error
        self.count += 1
        return offset

    def finish(self) -> Shard:
        """Close it and give it its name."""
        try:
            self.tar.close()
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.temporary, self.path)
            scratch.sync_folder(self.path.parent)
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from error
        return Shard(
            path=f"{self.path.parent.name}/{self.path.name}",
            sha256=self.sha256.hexdigest(),
            bytes=self.bytes,
            count=self.count,
        )

    def abandon(self) -> None:
        """Leave nothing unfinished behind; what tarfile still holds goes nowhere, the disk may be full."""
        self.tee.broken = True
        with contextlib.suppress(OSError):  # the buffer's rest may not fit either
            self.file.close()
        self.temporary.unlink(missing_ok=True)

    def _member(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)  # its time and owner are 0
        member.size = len(data)
        offset = self.tar.offset + tarfile.BLOCKSIZE  # after the header: one block, names are short
        self.tar.addfile(member, io.BytesIO(data))
        return offset


class _Tee(io.RawIOBase):
    """Writes to a writer's file and its digest."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.broken = writer, False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.broken:
            return len(data)
        self.writer.sha256.update(data)
        self.writer.bytes += len(data)
        return self.writer.file.write(data)
