"""Which files below a folder are images.

Content decides what a file is, its name only whether it is looked at: a file whose extension is that of an image is
read, and listed as a reject if it is none; other files (notes, tables, archives) and hidden ones are left alone and
counted. Links are followed, loops are not.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError, explained

#: Extensions of the formats in images.FORMATS.
READABLE = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
#: Images too, but in formats that are not read: listed as rejects rather than passed over.
UNREADABLE = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".exr", ".hdr", ".dcm"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw"}
)

_SYSTEM_FOLDERS = frozenset({"__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir"})


@dataclass(frozen=True, slots=True)
class Found:
    """A file with an image's extension: its path below the root with `/`, its bytes, its time in ns."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class Scan:
    """What lies below a folder: images sorted by path, folders, and other files counted by extension."""

    images: tuple[Found, ...]
    folders: tuple[str, ...]
    ignored: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """What `source_digest` says of it: a digest of the images' paths, sizes and times, their number and bytes."""
        lines = (f"{image.path}\0{image.size}\0{image.modified}\n" for image in self.images)
        digest = hashlib.sha256(os.fsencode("".join(lines))).hexdigest()
        size = sum(image.size for image in self.images)
        return {"digest": digest, "count": len(self.images), "bytes": size}


def scan(root: Path) -> Scan:
    """List the images below a folder without opening any; a `UserError` if there are none or it cannot be listed."""
    images: list[Found] = []
    folders: list[str] = []
    ignored: Counter[str] = Counter()
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        folder, above = waiting.pop()
        with explained(f"data.root: listing {root / folder}"), os.scandir(root / folder) as entries:
            here = os.stat(root / folder)
            if (here.st_dev, here.st_ino) in above:
                continue  # a link to a folder above: following it would never end
            inside = above | {(here.st_dev, here.st_ino)}
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if _is_folder(entry):
                    folders.append(path)
                    waiting.append((path, inside))
                elif (extension := os.path.splitext(entry.name)[1].lower()) in READABLE | UNREADABLE:
                    if (found := _found(entry, path)) is not None:
                        images.append(found)
                else:
                    ignored[extension or "no extension"] += 1
    if not images:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common(3))
        others = f"only other files ({kinds})" if kinds else "it is empty"
        endings = " ".join(sorted(READABLE))
        raise UserError(f"data.root: no image in {root}, {others}; images are files that end in {endings}")
    images.sort(key=lambda image: os.fsencode(image.path))
    return Scan(tuple(images), tuple(sorted(folders)), dict(sorted(ignored.items())))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _found(entry: os.DirEntry[str], path: str) -> Found | None:
    try:
        if not entry.is_file() and not entry.is_symlink():
            return None  # a pipe or socket with an image's name
        status = entry.stat()
    except OSError:
        return Found(path, -1, 0)  # a link to nothing: reading it will say so, in the list of rejects
    return Found(path, status.st_size, status.st_mtime_ns)


def printable(path: str) -> str:
    """A path as text that can be printed and put into JSON, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "replace")
