"""Files that outlive a process: the project's root, atomic writes, digests and locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslpipe.console.errors import explain_os_error, explained


def root() -> Path:
    """The project's root: `DVC_ROOT` under DVC, else the nearest folder upwards with a dvc.yaml, else here.

    In a temporary experiment workspace DVC sets `DVC_ROOT` to the main repository, so scratch and the
    MLflow store are shared by all experiments.
    """
    if set_by_dvc := os.environ.get("DVC_ROOT"):
        return Path(set_by_dvc)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


def folder(*parts: str) -> Path:
    """A folder of scratch, `.sslpipe/<parts>` under the project's root, made if it is not there."""
    path = root().joinpath(".sslpipe", *parts)
    with explained(f"making {path}"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def atomic_write(path: str | Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write a file so that a kill or a full disk at any moment leaves the old one or the new one, never a part.

    With `durable` it waits until the file is on the disk: a power failure, too, leaves the one or the other.

    Raises:
        UserError: the disk is full, read-only or forbidden.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.write(data)
        if durable:
            sync(Path(temporary))
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise explain_os_error(error, f"writing {path}") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, NaN refused."""
    atomic_write(path, _json_text(value))


def md5_of_json(value: Any) -> str:
    """What DVC calls a file that `write_json` makes of a value."""
    return hashlib.md5(_json_text(value).encode(), usedforsecurity=False).hexdigest()


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def sync(path: Path) -> None:
    """Wait until a file, or a folder's renames, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def bytes_digest(data: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: str | Path, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive lock on a file; if another process has it, say so once and wait.

    The lock belongs to the process: the kernel frees it however the process ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for {waiting_for} (another process holds {path})", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: str | Path) -> bool:
    """Whether a process holds the lock at this moment."""
    try:
        with open(path, "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
