"""A short look at MLflow's store before any long work: whether it would take runs."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

from sslpipe.tracking import mlflow
from sslpipe.tracking.config import Config
from sslpipe.tracking.store import database_file, served, store_uri
from sslpipe.tracking.trouble import Trouble, shown, trouble

SECONDS = 2.0  # of patience; imports, which take about as long, come before
_DATABASES = ("postgresql", "mysql", "mssql")


def report(tracking: Config) -> str:
    """What is found of the store in use, in a line that says what to do where it takes no runs."""
    if not tracking.enabled:
        return "MLflow is told nothing (tracking.enabled: false); stages write their records in runs/ all the same"
    uri = store_uri(tracking.uri)
    if found := look(uri, tracking.experiment):
        return found.sentence(f"stages will run, but MLflow at {shown(uri)} does not take their records")
    if (file := database_file(uri)) is None:
        return f"MLflow at {shown(uri)} answers"
    return f"MLflow's database {file}" + ("" if file.exists() else ", which the first run makes")


def look(uri: str, experiment: str, seconds: float = SECONDS) -> Trouble | None:
    """Try a store for some seconds: why it takes no runs, None for one that does. No database is made or changed."""
    if file := database_file(uri):
        return _look_at_file(file)
    _import(uri)
    found = [Trouble("no answer in time", passes=True)]

    def ask() -> None:
        try:
            _ask(uri, experiment)
        except Exception as error:
            found.append(trouble(error, uri))
        else:
            found.clear()

    thread = threading.Thread(target=ask, daemon=True)  # one that hangs ends with this process
    thread.start()
    thread.join(seconds)
    return found[-1] if found else None


def _import(uri: str) -> None:
    """Import what `_ask` will need of large packages."""
    if not uri.startswith(_DATABASES):
        mlflow.load()
    if uri.startswith("databricks"):
        with suppress(ImportError):
            import databricks.sdk  # noqa: F401


def _look_at_file(file: Path) -> Trouble | None:
    there = next(path for path in (file, *file.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Trouble(f"{there} cannot be written: check its owner and mode")
    if there != file:
        return None  # the first run makes it
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=SECONDS)
        ) as database:
            database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return trouble(error, str(file))
    return None


def _ask(uri: str, experiment: str) -> None:
    """Raise what MLflow, or the driver of a database, raises where the store cannot be used."""
    if uri.startswith(_DATABASES):
        from sqlalchemy import create_engine

        create_engine(uri).connect().close()  # MLflow would make its tables
        return
    client = mlflow.client(uri)
    if served(uri):
        mlflow.existing(client, experiment)
