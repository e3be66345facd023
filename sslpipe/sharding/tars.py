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

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.sharding.scan import READABLE, printable

IMAGES = frozenset(extension.removeprefix(".") for extension in READABLE)
LABELS = {"cls": 20, "json": 1 << 20}  # and the most bytes that one may have
_LABEL_KEYS = ("label", "cls", "class", "target")


@dataclass(frozen=True, slots=True)
class Member:
    """One image in a tar. `label` is a class's number or name, None for no label; `fault` why it cannot be used."""

    key: str
    label: int | str | None
    path: str
    offset: int
    size: int
    fault: str = ""

    def read(self, limit: int) -> bytes:
        """The encoded image, at most `limit` + 1 bytes of it.

        Raises:
            BadImage: it has a fault.
        """
        from sslpipe.shards import images  # which imports Pillow: an index needs none

        if self.fault:
            raise images.BadImage(self.fault)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(min(self.size, limit + 1))
        if len(data) < min(self.size, limit + 1):
            raise images.BadImage("truncated")
        return data


@dataclass
class Contents:
    """What is in a tar: its images in order, and the files passed over, counted by extension."""

    members: list[Member] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def scan(path: Path, name: str) -> Contents:
    """Read a tar's headers and labels.

    Args:
        path: an uncompressed tar.
        name: that begins the keys of its images.

    Raises:
        UserError: it cannot be read, is compressed, damaged or cut short.
    """
    found = Contents()
    try:
        with tarfile.open(path, "r:") as tar:
            sample = _Sample("", str(path))
            seen: set[str] = set()
            for entry in _entries(tar, path):
                key, extension, fault = _look(entry)
                if key != sample.key:
                    sample.close(found, name)
                    sample = _Sample(
                        key, str(path), "its files are apart, or it comes twice" if key in seen else ""
                    )
                    seen.add(key)
                sample.add(tar, entry, extension, fault, found)
            sample.close(found, name)
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is no tar, or damaged or compressed ({error}): unpack or replace it"
        ) from error
    except (ValueError, OverflowError) as error:  # numbers that cannot be, in a header
        raise UserError(f"{path} is damaged ({error}): replace it") from error
    except OSError as error:
        raise explain_os_error(error, f"reading {path}") from error
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


def _look(entry: tarfile.TarInfo) -> tuple[str, str, str]:
    """Key and extension, split at the first dot of the last part as WebDataset does, and what is wrong with it."""
    name = entry.name
    parts = name.split("/")
    stem, _, extension = parts[-1].partition(".")
    key = "/".join([*parts[:-1], stem])
    fault = ""
    if not entry.isreg() or entry.sparse is not None:
        fault = "not a plain file in its tar"
    elif name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
        fault = "a name no shard may hold"
    return key, extension.lower(), fault


class _Sample:
    """The files of one name."""

    def __init__(self, key: str, path: str, fault: str = "") -> None:
        self.key, self.path, self.fault = key, path, fault
        self.place: tuple[int, int] | None = None  # offset and bytes of the image
        self.label: int | str | None = None
        self.files = 0

    def add(
        self, tar: tarfile.TarFile, entry: tarfile.TarInfo, extension: str, fault: str, found: Contents
    ) -> None:
        """Take in one of its files."""
        self.files += 1
        if fault:
            self.fault = self.fault or fault
        elif extension in IMAGES:
            if self.place is not None:
                self.fault = self.fault or "two images of one name"
            self.place = entry.offset_data, entry.size
        elif extension in LABELS:
            try:
                self.label = _label(tar, entry, extension)
            except ValueError as error:
                self.fault = self.fault or str(error)
        else:
            found.ignored[f".{extension}" if extension else "no extension"] += 1

    def close(self, found: Contents, name: str) -> None:
        """Enter it among a tar's images; files without an image are none, unless something is wrong with them."""
        if not self.files or (self.place is None and not self.fault):
            return
        offset, size = self.place or (0, 0)
        key = printable(f"{name}/{self.key}")
        found.members.append(Member(key, self.label, self.path, offset, size, self.fault))


def _label(tar: tarfile.TarFile, entry: tarfile.TarInfo, extension: str) -> int | str | None:
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
    value = (
        next((values[key] for key in _LABEL_KEYS if key in values), None)
        if isinstance(values, dict)
        else None
    )
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 10**9:
        raise ValueError("a label that is neither a number nor a name")
    return None if value < 0 else value
