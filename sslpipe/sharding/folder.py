"""A folder of images: which files are images, which are for training, and what their classes are.

Content decides what a file is, its name only whether it is looked at: a file whose extension is that of an
image is read, and listed as a reject if it is none; other files (notes, tables, archives) and hidden ones are
left alone and counted. Links are followed, loops are not.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.core import scratch

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
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")


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

    def digest(self) -> str:
        """sha256 of the images' paths, sizes and times; no file is opened."""
        lines = (f"{image.path}\0{image.size}\0{image.modified}\n" for image in self.images)
        return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


@dataclass(frozen=True)
class Arrangement:
    """The splits as (path, class name or None); `test` is None if the folder has no such split."""

    train: tuple[tuple[str, str | None], ...]
    test: tuple[tuple[str, str | None], ...] | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]


def resolve_root(root: str) -> Path:
    """The folder that `data.root` names: `~` expanded, relative to the project's root.

    Raises:
        UserError: it is missing, not a folder, or holds the project itself.
    """
    try:
        path = scratch.root() / Path(root).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.root: the home folder in {root!r} is not known, write the path out") from error
    try:
        missing, is_folder = not path.exists(), path.is_dir()
    except OSError as error:
        raise explain_os_error(error, f"data.root: reading {path}") from error
    if missing:
        raise UserError(f"data.root: there is no folder {path}{_nearest(path)}")
    if not is_folder:
        raise UserError(f"data.root: {path} is a file, not a folder of images (unpack an archive first)")
    project = scratch.root().resolve()
    if path.resolve() in (project, *project.parents):
        raise UserError(f"data.root: {path} holds this project itself, name the folder with only the images")
    return path


def scan(root: Path) -> Scan:
    """List the images below a folder without opening any.

    Raises:
        UserError: a folder cannot be listed, or there is not one image.
    """
    images: list[Found] = []
    folders: list[str] = []
    ignored: Counter[str] = Counter()
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            here = os.stat(root / folder)
            if (here.st_dev, here.st_ino) in above:
                continue  # a link to a folder above: following it would never end
            inside = above | {(here.st_dev, here.st_ino)}
            with os.scandir(root / folder) as entries:
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
        except OSError as error:
            raise explain_os_error(error, f"data.root: listing {root / folder}") from error
    if not images:
        raise UserError(
            f"data.root: no image in {root}{_other_files(ignored)}; images are files that end in "
            f"{' '.join(sorted(READABLE))}"
        )
    images.sort(key=lambda image: os.fsencode(image.path))
    return Scan(tuple(images), tuple(sorted(folders)), dict(sorted(ignored.items())))


def arrange(found: Scan) -> Arrangement:
    """Find the layout: `{train,test}/class/*`, `class/*`, or images without labels, flat or nested.

    A folder that alone holds everything (an unpacked archive) is stepped into. Subfolders are classes if
    there are two or more and no image lies beside them. `val`, `valid`, `validation` or `testing` serve as
    `test`.
    """
    paths = [image.path for image in found.images]
    base = _base(paths)
    inner = [path[len(base) :] for path in paths]
    tops = sorted({path.split("/", 1)[0] for path in inner if "/" in path})
    train, test = _named(tops, _TRAIN_NAMES), _named(tops, _TEST_NAMES)
    notes = _without_images(found)
    if train is None or test is None:
        return _label({base: paths}, notes)
    prefixes = (f"{base}{train}/", f"{base}{test}/")
    outside = sum(not path.startswith(prefixes) for path in paths)
    if outside:
        notes.append(f"{outside} images outside {train}/ and {test}/ are not used")
    splits = {prefix: [path for path in paths if path.startswith(prefix)] for prefix in prefixes}
    return _label(splits, notes)


def _label(splits: dict[str, list[str]], notes: list[str]) -> Arrangement:
    folders: dict[str, set[str]] = {}  # of each split with labels, its class folders
    for prefix, paths in splits.items():
        tops = {path[len(prefix) :].split("/", 1)[0] for path in paths if "/" in path[len(prefix) :]}
        beside = sum("/" not in path[len(prefix) :] for path in paths)
        if not beside:
            folders[prefix] = tops
        elif tops:
            notes.append(
                f"labels are not used in {prefix or 'data.root'}: {beside} images lie beside the folders "
                f"{_few(tops)}, so these are not taken for classes"
            )
    names = sorted(set().union(*folders.values()))
    if len(names) < 2:
        folders, names = {}, []
    arranged = [
        tuple((path, path[len(prefix) :].split("/", 1)[0] if prefix in folders else None) for path in paths)
        for prefix, paths in splits.items()
    ]
    if len(arranged) == 2 and len(folders) == 2:
        first, second = folders.values()
        if second - first:
            notes.append(f"classes with test images but none to train on: {_few(second - first)}")
    return Arrangement(
        train=arranged[0],
        test=arranged[1] if len(arranged) == 2 else None,
        classes=tuple(names) or None,
        notes=tuple(notes),
    )


def _base(paths: Sequence[str]) -> str:
    """The innermost folder that holds every image, as a prefix with `/`, or nothing."""
    # What the first and the last in order have in common, all between them have too.
    pairs = zip(min(paths).split("/")[:-1], max(paths).split("/")[:-1], strict=False)
    return "".join(f"{first}/" for first, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _without_images(found: Scan) -> list[str]:
    """A note that names the folders with no image at any depth, the outermost of each."""
    full = {
        "/".join(parts[:depth])
        for image in found.images
        for parts in [image.path.split("/")]
        for depth in range(len(parts))
    }
    empty = {path for path in found.folders if path not in full and path.rpartition("/")[0] in full}
    return [f"folders without images: {_few(empty)}"] if empty else []


def _named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in wanted if name in lower), None)


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


def _nearest(path: Path) -> str:
    existing = next((parent for parent in path.parents if parent.is_dir()), None)
    if existing is None:
        return ""
    wanted = path.relative_to(existing).parts[0]
    try:
        names = [entry.name for entry in existing.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(wanted, names, n=1)
    if close:
        return f", did you mean {existing / close[0]}?"
    return f" ({existing} is there, but nothing called {wanted} in it)"


def _other_files(ignored: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common(3))
    return f", only other files ({kinds})" if kinds else ", it is empty"


def _few(names: set[str]) -> str:
    shown = sorted(names)[:5]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(printable(name) for name in shown) + more


def printable(path: str) -> str:
    """A path as text that can be printed and put into JSON, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "replace")
