"""Servers that refuse, fail and hang: one warning, no waiting, nothing lost."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow_store import follow, rows

from sslpipe.tracking import memory, notes
from sslpipe.tracking.record import Config
from sslpipe.tracking.store import recent_outage, store_uri
from sslpipe.tracking.sync import sync

# MLflow and SQLAlchemy warn about things of their own.
pytestmark = [pytest.mark.filterwarnings(f"ignore:::{name}") for name in ("mlflow", "sqlalchemy", "alembic")]

TOY = Config(experiment="toy")


class Failing(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(request, monkeypatch):
    """The address of a server that refuses, answers 500 or hangs."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if request.param == "answers 500":
        with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as http:
            http.asked = 0
            thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield f"http://me:secret@127.0.0.1:{http.server_port}"
            http.shutdown()
            thread.join()
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts and never answers
        port = listening.getsockname()[1]
        if request.param == "hangs":
            yield f"http://me:secret@127.0.0.1:{port}"
            return
    yield f"http://me:secret@127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("server", "why"),
    [("refuses", "connection refused"), ("answers 500", "HTTP 500"), ("hangs", "no answer in time")],
    indirect=["server"],
)
def test_bad_server_costs_one_warning_and_is_caught_up_with(
    server, why, store, record, followers, capsys, monkeypatch
):
    tracking = Config(experiment="toy", uri=server)
    with record("knn", tracking=tracking) as first:
        first.metric("loss", 1.0, 1)
        follow()  # as the process apart would, meanwhile
    with record("linear", tracking=tracking):
        pass
    said = capsys.readouterr().err
    warned = [line for line in said.splitlines() if line.startswith("warning:")]
    assert len(warned) == 1
    assert why in warned[0]
    assert "secret" not in warned[0]
    assert len(followers) == 1
    assert memory.workspace_runs().keys() == {"knn", "linear"}
    summary = sync(tracking)
    assert why in summary.error
    assert "secret" not in summary.error
    assert len(list(notes.pending().glob("*.json"))) == 2
    # The store is back, here as another one: the files rebuild it.
    assert sync(TOY).runs == 2
    assert rows()[1][first.id].data.metrics == {"loss": 1.0}


@pytest.mark.parametrize("server", ["hangs"], indirect=True)
def test_stage_never_waits_for_a_server(server, record, monkeypatch):
    monkeypatch.setenv(
        "MLFLOW_HTTP_REQUEST_TIMEOUT", "6"
    )  # longer than a stage takes to end on a busy machine
    tracking = Config(experiment="toy", uri=server)
    thread = threading.Thread(target=follow)
    run = record("knn", tracking=tracking)
    with run:
        thread.start()
        while not notes.following() and thread.is_alive():
            time.sleep(0.001)
        run.metric("loss", 1.0)
    assert thread.is_alive()  # the follower still waits for an answer; the stage is through
    thread.join()
    assert recent_outage(store_uri(server))
