from __future__ import annotations

from pathlib import Path

import pytest
from dvc_project import Project, commit, make_project


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh project that no test may change: clone it."""
    return make_project(tmp_path_factory.mktemp("fresh") / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, fresh: Project) -> Project:
    """A project after its first `dvc repro` (SimCLR), lock file committed; no test may change it: clone it."""
    project = fresh.clone(tmp_path_factory.mktemp("finished") / "project", tracking=True)
    project.environment["SSLPIPE_TEST_TRACE"] = str(project.folder / ".trace")
    (project.folder / ".git" / "info" / "exclude").write_text(".trace\n")
    project.repro(PYTHONPATH=str(Path(__file__).parent / "trace"))
    commit(project)
    return project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """MLflow and SQLAlchemy raise warnings of their own when a test looks into the store."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            for name in ("mlflow", "sqlalchemy", "alembic"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:::{name}"))
            item.add_marker(pytest.mark.pipeline)
