"""A store is tried for a moment before long work, and nothing is made by it."""

from __future__ import annotations

import os
import socket
import time

import pytest

from sslpipe.tracking import look, mlflow
from sslpipe.tracking.config import Config
from sslpipe.tracking.trouble import Trouble

pytestmark = [pytest.mark.filterwarnings(f"ignore:::{name}") for name in ("mlflow", "sqlalchemy", "alembic")]


def said(uri: str | None = None) -> str:
    return look.report(Config(experiment="toy", uri=uri))


def test_database_of_the_project_is_named_and_not_made(project):
    assert said() == f"MLflow's database {project}/mlflow.db, which the first run makes"
    assert (
        said("sqlite:///deep/my.db") == f"MLflow's database {project}/deep/my.db, which the first run makes"
    )
    assert list(project.iterdir()) == []


def test_database_that_is_there_is_opened(store):
    before = store.read_bytes()
    assert said() == f"MLflow's database {store}"
    assert store.read_bytes() == before


def test_database_that_cannot_be_used_is_said(project, monkeypatch):
    (project / "mlflow.db").write_text("words" * 99)
    assert "file is not a database" in said()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"{project}/mlflow.db cannot be written: check its owner and mode" in said()


def test_dead_server_is_said_with_what_to_do(project):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert said(f"http://me:secret@127.0.0.1:{port}") == (
        f"stages will run, but MLflow at http://127.0.0.1:{port} does not take their records (connection refused); "
        "nothing is lost: run `sslpipe sync` when it is back"
    )


def test_server_that_hangs_is_given_up_soon(project):
    mlflow.load()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        start = time.monotonic()
        found = look.look(f"http://127.0.0.1:{listening.getsockname()[1]}", "toy", seconds=0.2)
        assert time.monotonic() - start < 1.5  # not the seconds that MLflow would wait
    assert found == Trouble("no answer in time", passes=True)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://bucket/runs", "set `tracking.uri` or MLFLOW_TRACKING_URI to a server"),
        ("mlruns", "MLFLOW_ALLOW_FILE"),
    ],
)
def test_address_that_is_no_store_is_not_said_to_come_back(project, monkeypatch, uri, says):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    assert says in said(uri)
    assert "put this right" in said(uri)
    assert list(project.iterdir()) == []


def test_database_on_a_server_is_reached_without_making_tables(project, monkeypatch):
    opened = []

    class Engine:
        def connect(self):
            return self

        def close(self):
            opened.append(True)

    monkeypatch.setattr("sqlalchemy.create_engine", lambda uri: Engine())
    assert said("postgresql://me:secret@host/runs") == "MLflow at postgresql://host/runs answers"
    assert opened == [True]


def test_switched_off_is_said(project):
    assert "tracking.enabled" in look.report(Config(enabled=False))
