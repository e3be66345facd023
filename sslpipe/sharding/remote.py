"""Files named by patterns and addresses: braces, stars, folders; on this machine or fetched from elsewhere."""

from __future__ import annotations

import glob
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError, explain_os_error, explained
from sslpipe.console.progress import progress
from sslpipe.core import scratch

SCHEMES = ("http", "https", "s3", "gs", "az", "abfs", "hf")
_TRIES, _PAUSE = 3, 2.0  # downloads of a file, and seconds between them


def expand(pattern: str, extension: str, schemes: Iterable[str] = ()) -> list[str]:
    """The files or addresses that a pattern stands for, in order; a `UserError` if there are none.

    A pattern is a folder, of which files with the extension are taken, a file, or an address, of `SCHEMES` and these
    other schemes (else a `UserError`). `{000..012}` and `{a,b}` stand for several and, on this machine, `*`.
    """
    if scheme := scheme_of(pattern):
        allowed = {*SCHEMES, *schemes}
        if scheme not in allowed:
            raise UserError(
                f"{pattern}: addresses of the kind {scheme}: are not read ({', '.join(sorted(allowed))} are); "
                "if this one can be trusted, add it to data.schemes"
            )
        return _braces(pattern)
    found: list[str] = []
    for name in _braces(pattern):
        path = scratch.root() / Path(name).expanduser()
        if path.is_dir():
            found += sorted(str(file) for file in path.iterdir() if file.name.endswith(extension))
        elif glob.has_magic(str(path)):
            found += sorted(glob.glob(str(path), recursive=True))
        elif path.exists():
            found.append(str(path))
        else:
            raise UserError(f"there is no {path}")
    if not found:
        raise UserError(f"{pattern}: no {extension} file there")
    return found


def scheme_of(name: str) -> str:
    """The scheme of an address, "" for a path of this machine."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", name)
    return match[1].lower() if match and len(match[1]) > 1 else ""


def _braces(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]
    except ImportError as error:
        needed = "patterns with braces need the package braceexpand: run `pip install braceexpand`"
        raise UserError(needed) from error
    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        raise UserError(f"{pattern}: its braces do not fit together") from error


def status(name: str) -> tuple[int, str]:
    """Bytes of a file or address, and a word that changes with it; a `UserError` if it is missing or out of reach."""
    if not scheme_of(name):
        with explained(f"reading {name}"):
            status = os.stat(name)
        return status.st_size, str(status.st_mtime_ns)
    info = _reached(name, lambda system, path: system.info(path))
    marks = (info[key] for key in ("ETag", "etag", "LastModified", "mtime", "updated") if key in info)
    return int(info.get("size") or 0), str(next(marks, ""))


def local(names: list[str], place: Path) -> list[Path]:
    """The files themselves; addresses are fetched into a folder first, unless they are there (or a `UserError`)."""
    fetched = {name: place / _name(number, name) for number, name in enumerate(names) if scheme_of(name)}
    todo = {name: path for name, path in fetched.items() if not path.exists()}
    if todo:
        print(f"shard: fetching {len(todo)} of {len(names)} files into {place}", file=sys.stderr, flush=True)
        with progress("fetch", len(fetched), "files", done=len(fetched) - len(todo)) as bar:
            for name, path in todo.items():
                _fetch(name, path)
                bar.update()
    return [fetched.get(name, Path(name)) for name in names]


def _name(number: int, name: str) -> str:
    """A plain file name of its own for an address."""
    return f"{number:06d}-" + re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition("/")[2])[-100:]


def _fetch(name: str, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    size, _ = status(name)
    _reached(name, lambda system, remote: system.get_file(remote, str(part)))
    got = part.stat().st_size
    if size and got != size:
        part.unlink()
        raise UserError(f"{name}: {got} of {size} bytes came: run it again")
    os.replace(part, path)


def _reached(name: str, action: Any) -> Any:
    """What an action on the file system of an address gives, tried a few times."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UserError(f"{name}: addresses need the package fsspec: run `pip install fsspec`") from error
    for attempt in range(_TRIES):
        try:
            system, remote = url_to_fs(name)
            return action(system, remote)
        except ImportError as error:
            raise UserError(f"{name}: {error}: install what it names") from error
        except FileNotFoundError as error:
            if not isinstance(error.__cause__, OSError):  # a host that does not answer is not found either
                raise UserError(f"{name}: there is no such file") from error
            failure: Exception = error.__cause__
        except OSError as error:
            if error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
                raise explain_os_error(error, f"fetching {name}") from error
            failure = error
        except Exception as error:  # each kind of store has errors of its own
            failure = error
        if attempt < _TRIES - 1:
            time.sleep(_PAUSE)
    what = f"{name} cannot be reached ({type(failure).__name__}: {failure})"
    raise UserError(f"{what}: check the address, the network and your access") from failure
