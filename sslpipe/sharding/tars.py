"""Tar shards made elsewhere: an index of what is in them, and single images read by it. Nothing is extracted.

A sample is the files of one name side by side (WebDataset): an image, and perhaps a label in a `.cls` or `.json` file.
Nothing in a tar is trusted: names are looked at and never used as paths, files of unknown kinds are passed over
(pickles are such), and what no shard may hold is listed as a reject.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError, explained
from sslpipe.sharding.scan import READABLE, printable
from sslpipe.sharding.source import Item

IMAGES = frozenset(extension.removeprefix(".") for extension in READABLE)
LABELS = {"cls": 20, "json": 1 << 20}  # and the most bytes that one may have
_LABEL_KEYS = ("label", "cls", "class", "target")


@dataclass(frozen=True, slots=True)
class Member(Item):
    """One image in a tar."""

    label: Any  # as in the tar, a class's number or name or None for no label; once they are numbered, the number
    path: str
    offset: int
    size: int
    fault: str = ""  # why it cannot be used

    def read(self, limit: int) -> bytes:
        """The encoded image, at most `limit` + 1 bytes of it; a `BadImage` if it has a fault."""
        from sslpipe.shards import images  # which imports Pillow: an index needs none

        if self.fault:
            raise images.BadImage(self.fault)
        wanted = min(self.size, limit + 1)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(wanted)
        if len(data) < wanted:
            raise images.BadImage("truncated")
        return data


@dataclass
class Contents:
    """What is in a tar: its images in order, and the files passed over, counted by extension."""

    members: list[Member] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def scan(path: Path, name: str) -> Contents:
    """Read the headers and labels of a tar; `name` begins the keys of its images.

    A `UserError` says that it cannot be read, is compressed, damaged or cut short.
    """
    found, seen, sample = Contents(), set[str](), _Sample("")
    try:
        with explained(f"reading {path}"), tarfile.open(path, "r:") as tar:
            for entry in _entries(tar, path):
                key, extension = _split(entry.name)
                if key != sample.key:
                    sample.close(found, path, name)
                    sample = _Sample(key, "its files are apart, or it comes twice" if key in seen else "")
                    seen.add(key)
                sample.add(tar, entry, extension, found)
            sample.close(found, path, name)
    except tarfile.TarError as error:
        what = f"{path} is no tar, or damaged or compressed ({error})"
        raise UserError(f"{what}: unpack or replace it") from error
    except (ValueError, OverflowError) as error:  # numbers that cannot be, in a header
        raise UserError(f"{path} is damaged ({error}): replace it") from error
    return found


def _entries(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The tar's members, whose data must be there, and at the end the mark that it is the end."""
    size = path.stat().st_size
    while (entry := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else all are kept
        if entry.isdir():
            continue
        if entry.offset_data + entry.size > size:
            raise tarfile.ReadError(f"cut short in {entry.name!r}")
        yield entry
    # `next` takes a damaged header for the end.
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset}")


def _split(name: str) -> tuple[str, str]:
    """Key and extension, split at the first dot of the last part as WebDataset does."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


@dataclass
class _Sample:
    """The files of one name."""

    key: str
    fault: str = ""  # the first that was found
    place: tuple[int, int] | None = None  # offset and bytes of the image
    label: int | str | None = None

    def add(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, extension: str, found: Contents) -> None:
        """Take in one of its files."""
        try:
            _check(entry)
            if extension in IMAGES:
                earlier, self.place = self.place, (entry.offset_data, entry.size)
                if earlier is not None:
                    raise ValueError("two images of one name")
            elif extension in LABELS:
                self.label = _label(tar, entry, extension)
            else:
                found.ignored[f".{extension}" if extension else "no extension"] += 1
        except ValueError as error:
            self.fault = self.fault or str(error)

    def close(self, found: Contents, path: Path, name: str) -> None:
        """Enter it among a tar's images; files without an image are none, unless something is wrong with them."""
        if self.place is not None or self.fault:
            offset, size = self.place or (0, 0)
            key = printable(f"{name}/{self.key}")
            found.members.append(Member(key, self.label, str(path), offset, size, self.fault))


def _check(entry: tarfile.TarInfo) -> None:
    """A `ValueError` says why a file must be left alone."""
    if not entry.isreg() or entry.sparse is not None:
        raise ValueError("not a plain file in its tar")
    name = entry.name
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise ValueError("a name no shard may hold")


def _label(tar: tarfile.TarFile, entry: tarfile.TarInfo, extension: str) -> int | str | None:
    """The label in a `.cls` or `.json` file; a `ValueError` says what is wrong with it."""
    if entry.size > LABELS[extension]:
        raise ValueError("a label file of too many bytes")
    file = tar.extractfile(entry)
    data = b"" if file is None else file.read()
    if extension == "cls":
        if not re.fullmatch(rb"\s*(-1|[0-9]{1,9})\s*", data):
            raise ValueError("a label that is no number")
        return None if int(data) < 0 else int(data)
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("a label file that is no JSON") from None
    known = values if isinstance(values, dict) else {}
    value = next((known[key] for key in _LABEL_KEYS if key in known), None)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 10**9:
        raise ValueError("a label that is neither a number nor a name")
    return None if value < 0 else value
