from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_store import PARAMS

from sslpipe.tracking import energy, notes
from sslpipe.tracking.record import Config, Record


@pytest.fixture(autouse=True)
def followers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the followers that would have been started; tests do their work in this process."""
    started: list[int] = []
    monkeypatch.setattr(notes, "start_follower", lambda: started.append(1))
    return started


@pytest.fixture(autouse=True)
def no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away the machine's counters of energy, which would add a metric to some machines' records."""
    monkeypatch.setattr(energy, "machine", dict)


@pytest.fixture
def record(project: Path) -> Callable[..., Record]:
    def make(stage: str = "knn", **changes: Any) -> Record:
        settings: dict[str, Any] = {
            "params": PARAMS,
            "own": (stage, "seed"),
            "key": "a" * 16,
            "tracking": Config(experiment="toy"),
        }
        return Record(stage, **{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory):
    """A database that four processes started on at once, and what each of them got."""
    root = tmp_path_factory.mktemp("first")
    os.environ["DVC_ROOT"], before = str(root), os.environ.get("DVC_ROOT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forking beside MLflow's threads
        from sslpipe.tracking import mlflow, store

        mlflow.client("sqlite:///:memory:")  # import it once, for all four
        children = []
        for _ in range(4):
            if not (child := os.fork()):
                status = 1
                with contextlib.suppress(BaseException), store.mirror_lock():
                    mlflow.Mirror(f"sqlite:///{root}/mlflow.db", "first")
                    status = 0
                os._exit(status)
            children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.environ["DVC_ROOT"] = before or ""
    if before is None:
        del os.environ["DVC_ROOT"]
    return root / "mlflow.db", statuses


@pytest.fixture
def store(project, fresh_store):
    """The project's store, made already: a new one costs seconds."""
    shutil.copy(fresh_store[0], project / "mlflow.db")
    return project / "mlflow.db"


@pytest.fixture
def pipeline(project, record):
    """Runs a small pipeline; gives the ids of the runs by stage."""

    def run(key="a" * 16, stages=("pretrain", "knn", "report"), top1=0.9, **changes):
        ids = {}
        for folder in ("metrics", "plots/knn", "report"):
            (project / folder).mkdir(parents=True, exist_ok=True)
        for stage in stages:
            with record(stage, key=key, **{"params": PARAMS, **changes}) as run:
                ids[stage] = run.id
                if stage == "pretrain":
                    run.dataset("toy", "d" * 64, "invented")
                    for step in range(1500):  # more than one batch
                        run.metrics({"loss": 1 / (1 + step)}, step)
                if stage == "knn":
                    (project / "metrics/knn.json").write_text(
                        json.dumps({"top1": top1, "random_init_top1": 0.5})
                    )
                    (project / "plots/knn/confusion.png").write_bytes(b"picture")
                    run.artifact("plots/knn")
                if stage == "report":
                    (project / "report/index.html").write_text("<p>report")
                    run.artifact("report/index.html")
        return ids

    return run
