"""DVC experiments: in the workspace, in temporary ones, and two at once on a fresh store."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from dvc_project import Project, commit, ran

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]


def table(project: Project) -> list[dict[str, str]]:
    shown = project.run("dvc", "exp", "show", "--csv").stdout
    return list(csv.DictReader(io.StringIO(shown[shown.index("Experiment,") :])))


def parents(project: Project) -> list[dict[str, str]]:
    from mlflow import MlflowClient

    project.run("sslpipe", "sync")
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return [run.data.params for run in runs if "mlflow.parentRunId" not in run.data.tags]


def test_exp_run_shows_up_beside_the_workspace(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    output = project.run("dvc", "exp", "run", "-S", "knn.k=7", "--name", "k7").stdout
    assert ran(output) == ["source", "knn", "report"]
    rows = {row["Experiment"]: row for row in table(project)}
    assert rows["k7"]["knn.k"] == "7"
    assert float(rows["k7"]["knn.top1"]) > 0
    assert "protocol" not in project.run("dvc", "metrics", "diff").stdout
    assert "knn.k" in project.run("dvc", "params", "diff").stdout


def test_a_temporary_workspace_keeps_its_results_and_its_rows(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project", tracking=True)
    project.run("dvc", "exp", "run", "--temp", "-S", "knn.k=3", "--name", "k3")
    (row,) = [r for r in table(project) if r["Experiment"] == "k3"]
    assert row["knn.k"] == "3"
    assert sorted(p["knn.k"] for p in parents(project)) == ["3", "5"]
    assert project.result("knn")["protocol"]["k"] == 5  # the workspace is as it was
    compared = project.run("sslpipe", "compare", ".", "k3").stdout
    assert "k-NN, all labels" in compared
    assert "k-NN did not follow the same protocol" in compared
    assert "knn.k" in (project.folder / "report/compare.html").read_text()
    missing = project.run("sslpipe", "compare", ".", "k4", check=False)
    assert missing.returncode == 1
    assert "no experiment, revision or folder `k4`; did you mean k3?" in missing.stdout


def test_a_project_in_a_folder_of_a_repository_has_its_experiments(finished: Project, tmp_path: Path) -> None:
    folder = tmp_path / "repository" / "vision" / "ssl"  # as `dvc init --subdir` makes it
    shutil.copytree(finished.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", ".trace"))
    project = Project(folder)
    project.run("git", "init", "-q", "-b", "main", str(tmp_path / "repository"))
    project.run("git", "config", "user.email", "test@example.org")
    project.run("git", "config", "user.name", "Test")
    commit(project)
    project.run("dvc", "exp", "run", "--temp", "-S", "knn.k=3", "--name", "k3")
    assert sorted(p["knn.k"] for p in parents(project)) == ["3", "5"]
    compared = project.run("sslpipe", "compare", ".", "k3", "HEAD").stdout
    assert "k-NN did not follow the same protocol" in compared
    scores = next(line for line in compared.splitlines() if line.startswith("k-NN, all labels"))
    assert len(re.findall(r"\d\d\.\d  ", scores)) >= 3


def test_a_moved_project_writes_nothing_to_its_former_place(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project", tracking=True)
    for path in project.folder.glob("mlflow.db*"):  # which knows the folder that was cloned
        path.unlink()
    project.run("sslpipe", "sync")
    moved = Project(project.folder.rename(tmp_path / "moved"))
    moved.set(knn__k=4)
    moved.repro()
    moved.run("sslpipe", "sync")
    assert not project.folder.exists()
    assert sorted(p["knn.k"] for p in parents(moved)) == ["4", "5"]
    with contextlib.closing(sqlite3.connect(moved.folder / "mlflow.db")) as database:
        for (location,) in database.execute("SELECT artifact_uri FROM runs").fetchall():
            path = Path(location.removeprefix("file://"))
            assert path.is_relative_to(moved.folder / "mlartifacts")
            assert path.is_dir()


def test_a_row_of_mlflow_is_compared_as_its_files_are(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project", tracking=True)
    project.run("sslpipe", "sync")
    key = project.json("report/run.json")["key"][:6]
    lines = project.run("sslpipe", "compare", ".", f"mlflow:{key}").stdout.splitlines()
    scores = [line.split("   ") for line in lines if "labels   " in line]
    assert len(scores) > 3
    for _, workspace, logged in ([cell.strip() for cell in line if cell.strip()] for line in scores):
        assert logged.split("  ")[0] == workspace
        assert "~0.0" in logged
    text = "\n".join(lines)
    assert "not evaluated on the same images" not in text
    assert "same protocol" not in text
    page = (project.folder / "report/compare.html").read_text()
    assert "All settings are the same" in page
    assert "the same 30 test images: 0 won, 0 lost" in page  # by the copies of the confusions
    unknown = project.run("sslpipe", "compare", ".", "mlflow:nothing", check=False)
    assert f"known by their short keys: {key}" in unknown.stdout


def test_two_queued_at_once_on_a_fresh_store(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project", tracking=True)
    for path in project.folder.glob("mlflow.db*"):
        path.unlink()
    for k in (1, 2):
        project.run("dvc", "exp", "run", "--queue", "-S", f"knn.k={k}", "--name", f"k{k}")
    output = project.run("dvc", "queue", "start", "-j", "2").stdout
    assert "Started" in output
    end = time.monotonic() + 300
    while True:
        status = project.run("dvc", "queue", "status").stdout
        if status.count("Success") == 2:
            break
        assert "Failed" not in status, status + project.run("dvc", "queue", "logs", "k1", check=False).stdout
        assert time.monotonic() < end, status
        time.sleep(1)
    rows = {r["Experiment"]: r for r in table(project)}
    assert rows["k1"]["knn.k"] == "1"
    assert rows["k2"]["knn.top1"]
    assert sorted(p["knn.k"] for p in parents(project)) == ["1", "2", "5"]
