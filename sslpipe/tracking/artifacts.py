"""Where the copies of artifacts lie that MLflow shows, also when the project's folder has been moved or copied.

MLflow makes every location absolute: its database holds one for each experiment and each run, and no call of MLflow
changes it. So a moved project would show no pictures, and write new ones to its former place. Nothing here imports
MLflow.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.tracking.store import ARTIFACTS, artifacts_folder, database_file, mirror_lock

# A folder of artifacts has our name or MLflow's own. One with another name somebody has chosen on purpose.
_FOLDER = re.compile(rf".*/(?:{ARTIFACTS}|mlruns)(?=/|$)")
_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


@dataclass(frozen=True)
class Moved:
    """Where artifacts lay before, and where they lie now."""

    old: Path
    new: Path

    def __str__(self) -> str:
        return f"MLflow looked for plots and reports in {self.old}, and does so in {self.new} from now on"


def follow_move(uri: str, experiment: str) -> Moved | None:
    """Set an experiment's locations right in a SQLite file that was moved or copied with its artifacts, or without any.

    Returns:
        What was changed; None where all was right, or the store is no SQLite file.

    Raises:
        UserError: the artifacts are still at their former place, and nowhere else.
    """
    file = database_file(uri)
    if file is None or not file.is_file():
        return None
    with closing(sqlite3.connect(file, timeout=10)) as database, database:
        for location in _locations(database, experiment):
            if found := _outside(location, uri):
                prefix, old = found
                moved = Moved(old, artifacts_folder(uri).with_name(old.name))
                if moved.old.exists() and not moved.new.exists():
                    raise UserError(_left_behind(moved, experiment))
                _replace(database, prefix, moved.new)
                return moved
    return None


def follow_move_in_turn(uri: str, experiment: str) -> None:
    """As `follow_move`, for a process that has not the turn to write: it waits for it where there is a file."""
    if database_file(uri):
        with mirror_lock():
            follow_move(uri, experiment)


def refuse_outside(location: str, uri: str, experiment: str) -> None:
    """Refuse an experiment of a store, not a server, whose artifacts another project, or this one elsewhere, has made.

    Raises:
        UserError: it is such a one; the text names both places.
    """
    if found := _outside(location, uri):
        raise UserError(
            f"the plots and reports of MLflow's experiment `{experiment}` belong into {found[1]}, outside this "
            f"project, {scratch.root().resolve()}: set `tracking.experiment` to another name"
        )


def there(location: str) -> bool:
    """Whether a run's artifacts are there; always true of those that are not on this machine's disk."""
    path = _path(location)
    return path is None or path.is_dir()


def _left_behind(moved: Moved, experiment: str) -> str:
    copy = shlex.join(["cp", "-r", str(moved.old), str(moved.new)])
    return (
        f"the plots and reports of MLflow's experiment `{experiment}` lie in {moved.old}, but its database is beside "
        f"{moved.new}: copy them (`{copy}`)"
    )


def _locations(database: sqlite3.Connection, experiment: str) -> list[str]:
    """An experiment's locations of artifacts: one, or none where it or the tables are still to be made."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return []
    found = database.execute("SELECT artifact_location FROM experiments WHERE name = ?", [experiment])
    return [location for (location,) in found if location]


def _replace(database: sqlite3.Connection, prefix: str, new: Path) -> None:
    """Put another folder in front of the locations of all experiments and runs that begin with a prefix."""
    after = new.as_uri() if prefix.startswith("file:") else str(new)
    for table, column in _COLUMNS:
        database.execute(
            f"UPDATE {table} SET {column} = :after || substr({column}, length(:prefix) + 1) "
            f"WHERE {column} = :prefix OR substr({column}, 1, length(:prefix) + 1) = :prefix || '/'",
            {"prefix": prefix, "after": after},
        )


def _outside(location: str, uri: str) -> tuple[str, Path] | None:
    """The folder of artifacts, as written and as a path, that a location names outside the project and its database."""
    path, found = _path(location), _FOLDER.match(location)
    if path is None or found is None:
        return None
    homes = [scratch.root(), artifacts_folder(uri).parent]
    if any(_within(path, home) for home in homes):
        return None
    folder = _path(found[0])
    assert folder is not None  # it is of the same kind as the whole location
    return found[0], folder


def _within(path: Path, home: Path) -> bool:
    """Whether a path lies in a folder as written, or where links lead, as from a project's former place."""
    return path.is_relative_to(os.path.abspath(home)) or Path(os.path.realpath(path)).is_relative_to(
        os.path.realpath(home)
    )


def _path(location: str) -> Path | None:
    """A location as a path; None for one elsewhere than on this machine's disk."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(location)
