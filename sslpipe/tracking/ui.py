"""`sslpipe ui`: MLflow's own pages on localhost, for the store in use."""

from __future__ import annotations

import os
import sys

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.tracking.record import Config
from sslpipe.tracking.store import page, served, shown, store_uri

#: Only pages are wanted. By default the server also starts six processes that wait for jobs (of judging answers of
#: language models and the like), each of a few hundred megabytes.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def ui_command(tracking: Config, *, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command and environment of MLflow's pages on localhost for the store in use; see `ui_address`.

    Raises:
        UserError: the store is a server, which has pages of its own.
    """
    uri = store_uri(tracking.uri)
    if served(uri):
        raise UserError(f"MLflow runs as a server: open {ui_address(tracking)} in a browser")
    artifacts = (scratch.root().resolve() / "mlartifacts").as_uri()
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    keeps = ["--backend-store-uri", uri, "--default-artifact-root", artifacts]
    return [sys.executable, "-m", "mlflow", "ui", *where, *keeps], {**os.environ, **ENVIRONMENT}


def ui_address(tracking: Config, *, port: int = 5000) -> str:
    """The address of MLflow's page with one row an experiment and the headline metrics beside it."""
    uri = store_uri(tracking.uri)
    host = shown(uri).rstrip("/") if served(uri) else f"http://127.0.0.1:{port}"
    return host + page(uri, tracking.experiment)
