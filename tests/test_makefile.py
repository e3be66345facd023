"""`make setup` in a project that was moved: scripts and the editable install of .venv point to where it was."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    return tmp_path


def planned(project: Path, target: str = "setup") -> str:
    """What make would run."""
    command = ["make", "--dry-run", target]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout


def test_an_environment_is_made_once(project: Path) -> None:
    assert "uv pip install" in planned(project)
    (project / ".venv/.ready").write_text(f"{project}\n")
    assert "uv pip install" not in planned(project)


def test_in_a_moved_project_it_is_set_right(project: Path) -> None:
    (project / ".venv/.ready").write_text("/home/before/project\n")
    plan = planned(project)
    assert "the project was in /home/before/project before" in plan
    assert plan.index("-m venv --without-pip") < plan.index("uv pip install")
