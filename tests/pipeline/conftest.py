from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc_project import OFF, Project, commit, make_project


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh project that no test may change: clone it."""
    return make_project(tmp_path_factory.mktemp("fresh") / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, fresh: Project) -> Project:
    """A project after its first `dvc repro` (SimCLR), lock file committed; no test may change it: clone it."""

    def make(folder: Path) -> None:
        project = fresh.clone(folder, tracking=True)
        (folder / ".git" / "info" / "exclude").write_text(".trace\n")
        _run_traced(project)

    return _once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory, finished: Project) -> Project:
    """The same after a second `dvc repro`, with all evaluations; no test may change it: clone it."""

    def make(folder: Path) -> None:
        project = finished.clone(folder, tracking=True)
        shutil.copytree(finished.folder / ".trace", folder / ".trace")
        project.set(evaluate__seeds=2, **{f"{stage}__enabled": True for stage in OFF})
        _run_traced(project)

    return _once(tmp_path_factory, "everything", make)


def _run_traced(project: Project) -> None:
    """`dvc repro`, after which `.trace` says what each stage that ran imported."""
    project.environment["SSLPIPE_TEST_TRACE"] = str(project.folder / ".trace")
    project.repro(PYTHONPATH=str(Path(__file__).parent / "trace"))
    commit(project)


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Project:
    """A project for all workers: the others wait for the first that wants it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / name / "project", shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
            make(folder)
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
