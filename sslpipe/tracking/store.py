"""MLflow's store as seen without importing MLflow: its address, its pages, and whether it answered lately.

A store that did not answer is left alone for a while, and the user is told once.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.tracking.config import Config
from sslpipe.tracking.journal import read_json, try_lock
from sslpipe.tracking.trouble import Trouble, first_time, shown, tell_again

VIEW = "sslpipe"  # the saved view of the table of runs
ARTIFACTS = "mlartifacts"  # the folder of copies of artifacts
PATIENCE = 600.0  # seconds after an outage in which the store is not tried again by itself
#: Only pages are wanted. By default the server also starts a runner and seven consumers of jobs, such as judging the
#: answers of language models: eight processes of up to 250 MB each.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

_SQLITE, _IN_MEMORY = "sqlite:///", ":memory:"


def mirror_lock() -> AbstractContextManager[bool]:
    """Wait for the turn to write to MLflow; also keeps first-time starts from migrating a database twice."""
    return try_lock(scratch.folder("tracking") / "mirror.lock", wait=True)


def chosen_uri(uri: str | None = None) -> str:
    """Where MLflow keeps runs: the setting, else `MLFLOW_TRACKING_URI`, else a SQLite file in the project.

    As it was written: a relative path stays right when the project is moved.
    """
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"


def store_uri(uri: str | None = None) -> str:
    """The same as MLflow is to open it.

    A relative SQLite path means the project's root, whatever the folder of the process.
    """
    chosen = chosen_uri(uri)
    path = chosen.removeprefix(_SQLITE)
    if path not in (chosen, "", _IN_MEMORY) and not path.startswith("/"):
        return f"{_SQLITE}{scratch.root() / path}"
    return chosen


def database_file(uri: str) -> Path | None:
    """The file of a store that is a SQLite database, as `store_uri` gives it; None for any other store."""
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if uri.startswith(_SQLITE) and path not in ("", _IN_MEMORY) else None


def served(uri: str) -> bool:
    """Whether a store is a server that keeps artifacts and shows pages by itself."""
    return uri.startswith(("http:", "https:", "databricks"))


def note_page(uri: str, experiment: str, number: str) -> None:
    """Remember MLflow's number of an experiment, so that its page is found without asking."""
    path = _page_path(uri, experiment)
    if not path.is_file() or path.read_text() != number:
        scratch.atomic_write(path, number)


def artifacts_folder(uri: str) -> Path:
    """Where the artifacts of a store that is no server belong: beside its SQLite file, else in the project."""
    file = database_file(uri)
    return (scratch.root() if file is None else file.parent).resolve() / ARTIFACTS


def ui_command(tracking: Config, *, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command and environment of MLflow's pages on localhost for the store in use; see `ui_address`.

    Raises:
        UserError: the store is a server, which has pages of its own.
    """
    uri = store_uri(tracking.uri)
    if served(uri):
        raise UserError(f"MLflow runs as a server: open {ui_address(tracking)} in a browser")
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    keeps = ["--backend-store-uri", uri, "--default-artifact-root", artifacts_folder(uri).as_uri()]
    return [sys.executable, "-m", "mlflow", "ui", *where, *keeps], {**os.environ, **ENVIRONMENT}


def ui_address(tracking: Config, *, port: int = 5000) -> str:
    """The address of MLflow's page with one row an experiment and the headline metrics beside it."""
    uri = store_uri(tracking.uri)
    host = shown(uri).rstrip("/") if served(uri) else f"http://127.0.0.1:{port}"
    try:
        number = _page_path(uri, tracking.experiment).read_text()
    except OSError:
        return f"{host}/"
    return f"{host}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _page_path(uri: str, experiment: str) -> Path:
    return scratch.folder("tracking") / f"page-{scratch.digest([uri, experiment])[:8]}"


def note_outage(uri: str, found: Trouble) -> None:
    """Remember that a store did not take runs."""
    outage = {"uri": shown(uri), "why": found.why, "passes": found.passes, "time": time.time()}
    scratch.write_json(_outage_path(uri), outage)


def clear_outage(uri: str) -> None:
    """Forget the outage of a store that answers again."""
    with suppress(OSError):
        _outage_path(uri).unlink()
        tell_again(_outage(uri))


def recent_outage(uri: str) -> dict[str, Any] | None:
    """What is noted of a store that did not answer a short while ago."""
    outage = read_json(_outage_path(uri))
    return outage if outage and 0 <= time.time() - outage["time"] < PATIENCE else None


def outage_to_warn_of(uri: str | None, key: str) -> str | None:
    """The one sentence for the user about an outage; none without one or when this pipeline run said it."""
    address = store_uri(uri)
    outage = recent_outage(address)
    if outage is None or not first_time(_outage(address), key):
        return None
    what = f"the pipeline goes on, but MLflow at {outage['uri']} did not take this run"
    return Trouble(outage["why"], outage["passes"]).sentence(what)


def _outage(uri: str) -> str:
    return f"outage-{scratch.digest(uri)[:8]}"


def _outage_path(uri: str) -> Path:
    return scratch.folder("tracking") / f"{_outage(uri)}.json"
