"""Write WebDataset tar shards: `000000042.png` and `000000042.cls` side by side.

The standard library's tarfile makes the headers. The webdataset package reads these shards (tested), but importing it
imports torch, which would cost the stage that writes them more time than the writing.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from sslpipe.shards import writing
from sslpipe.shards.images import Stored
from sslpipe.shards.writing import Placed


class Writer(writing.Writer):
    """One tar, hashed as it is written. An image is called by its place; a label of -1 is left out."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.bytes, self.sha256 = 0, hashlib.sha256()

    def _add(self, place: int, key: str, stored: Stored, label: int) -> Placed:
        offset = self._member(f"{place:09d}.{stored.extension}", stored.data)
        if label >= 0:
            self._member(f"{place:09d}.cls", str(label).encode())
        return Placed(offset, len(stored.data), raw=False)

    def _complete(self) -> str:
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.bytes + end) % tarfile.RECORDSIZE))
        self.file.close()
        return self.sha256.hexdigest()

    def _member(self, name: str, data: bytes) -> int:
        """Append a file; where in the tar its bytes begin."""
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
