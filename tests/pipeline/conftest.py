from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from dvc_project import Project, commit, make_project


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh project that no test may change: clone it."""
    return make_project(tmp_path_factory.mktemp("fresh") / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, fresh: Project) -> Project:
    """A project after its first `dvc repro` (SimCLR), lock file committed; no test may change it: clone it.

    One for all workers: the others wait for the first that wants it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / "finished" / "project", shared / "finished.done"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
            project = fresh.clone(folder, tracking=True)
            project.environment["SSLPIPE_TEST_TRACE"] = str(folder / ".trace")
            (folder / ".git" / "info" / "exclude").write_text(".trace\n")
            project.repro(PYTHONPATH=str(Path(__file__).parent / "trace"))
            commit(project)
            done.touch()
    return Project(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """MLflow and SQLAlchemy raise warnings of their own when a test looks into the store."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            for name in ("mlflow", "sqlalchemy", "alembic"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:::{name}"))
            item.add_marker(pytest.mark.pipeline)
