"""Write WebDataset tar shards: `000000042.png` and `000000042.cls` side by side.

The standard library's tarfile makes the headers. The webdataset package reads these shards (tested), but importing it
imports torch, which would cost the stage that writes them more time than the writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from pathlib import Path

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.core import scratch
from sslpipe.shards.images import Stored
from sslpipe.shards.manifest import Shard
from sslpipe.shards.writing import Placed

_LABEL = "cls"


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

    def add(self, place: int, key: str, stored: Stored, label: int) -> Placed:
        """Write an image under its place, and its label if it has one."""
        try:
            offset = self._member(f"{place:09d}.{stored.extension}", stored.data)
            if label >= 0:
                self._member(f"{place:09d}.{_LABEL}", str(label).encode())
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from error
        self.count += 1
        return Placed(offset, len(stored.data), raw=False)

    def finish(self) -> Shard:
        """Close it and give it its name; the system may not have written all of it yet."""
        try:
            end = 2 * tarfile.BLOCKSIZE
            self._write(bytes(end + -(self.bytes + end) % tarfile.RECORDSIZE))
            self.file.close()
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from error
        return Shard(
            path=f"{self.path.parent.name}/{self.path.name}",
            sha256=self.sha256.hexdigest(),
            bytes=self.bytes,
            count=self.count,
        )

    def abandon(self) -> None:
        """Leave nothing unfinished behind."""
        with contextlib.suppress(OSError):  # the buffer's rest may not fit either
            self.file.close()
        self.temporary.unlink(missing_ok=True)

    def _member(self, name: str, data: bytes) -> int:
        header = _header(name, len(data))
        offset = self.bytes + len(header)
        self._write(b"".join((header, data, bytes(-len(data) % tarfile.BLOCKSIZE))))
        return offset

    def _write(self, data: bytes) -> None:
        self.sha256.update(data)
        self.bytes += len(data)
        self.file.write(data)


#: tarfile's header of an empty file without a name, of time 0 and owner 0; the checksum counts itself as spaces.
_EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_SIZE, _CHECKSUM = slice(124, 136), slice(148, 156)
_SUM = sum(_EMPTY) - sum(_EMPTY[_SIZE]) - sum(_EMPTY[_CHECKSUM]) + 8 * ord(" ")


def _header(name: str, size: int) -> bytearray:
    """What tarfile makes of a name of at most 100 characters and a size, which it does in fifty microseconds."""
    header, field, text = bytearray(_EMPTY), b"%011o\0" % size, name.encode("ascii")
    header[: len(text)], header[_SIZE] = text, field
    header[_CHECKSUM] = b"%06o\0 " % (_SUM + sum(text) + sum(field))
    return header
