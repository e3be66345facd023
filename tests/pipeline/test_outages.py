"""The tracking server away, slow or failing: no stage stops, one warning, and sync makes up for it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc_project import Project, ran

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]


class Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def failing_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", ["refused", "500"])
def test_a_run_goes_on_without_its_tracking_server(
    finished: Project, tmp_path: Path, failing_server: str, kind: str
) -> None:
    project = finished.clone(tmp_path / "project", tracking=True)
    address = failing_server if kind == "500" else "http://127.0.0.1:9"
    project.set(knn__k=4)
    output = project.repro(MLFLOW_TRACKING_URI=address)
    assert ran(output) == ["source", "knn", "report"]
    assert project.result("knn")["protocol"]["k"] == 4
    assert output.count("warning:") <= 1
    lenient = project.run("sslpipe", "sync", "--lenient", MLFLOW_TRACKING_URI=address).stdout
    assert "127.0.0.1" in lenient
    assert project.run("sslpipe", "sync", check=False, MLFLOW_TRACKING_URI=address).returncode == 1

    # Back on the default store, everything that was missed is there.
    project.run("sslpipe", "sync")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {"4", "5"} <= {
        run.data.params.get("knn.k") for run in runs if "mlflow.parentRunId" not in run.data.tags
    }
