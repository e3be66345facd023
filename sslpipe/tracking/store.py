"""Where MLflow keeps its runs: the store's address, and the page that shows them. Nothing here imports MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from sslpipe.core import scratch

VIEW = "sslpipe"  # the saved view of the table of runs


def store_uri(uri: str | None = None) -> str:
    """Where MLflow keeps runs: the setting, else `MLFLOW_TRACKING_URI`, else a SQLite file in the project.

    A relative SQLite path means the project's root, whatever the folder of the process.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = chosen.removeprefix("sqlite:///")
    if path != chosen and path and not path.startswith("/"):
        return f"sqlite:///{scratch.root() / path}"
    return chosen


def served(uri: str) -> bool:
    """Whether a store is a server that keeps artifacts and shows pages by itself."""
    return uri.startswith(("http:", "https:", "databricks"))


def shown(uri: str) -> str:
    """A store's address without the user name and password it may hold."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else uri


def note_page(uri: str, experiment: str, number: str) -> None:
    """Remember MLflow's number of an experiment, so that its page is found without asking."""
    path = _page_path(uri, experiment)
    if not path.is_file() or path.read_text() != number:
        scratch.atomic_write(path, number)


def page(uri: str, experiment: str) -> str:
    """The path of MLflow's page with one row an experiment and the headline metrics beside it."""
    try:
        number = _page_path(uri, experiment).read_text()
    except OSError:
        return "/"
    return f"/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _page_path(uri: str, experiment: str) -> Path:
    return scratch.folder("tracking") / f"page-{scratch.digest([uri, experiment])[:8]}"
