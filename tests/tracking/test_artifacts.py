"""A project whose folder was moved or copied: MLflow's copies of plots and pages go with it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow_store import artifacts, client, follow, rows

from sslpipe.cli import main
from sslpipe.console.errors import UserError
from sslpipe.tracking import notes
from sslpipe.tracking.artifacts import follow_move, refuse_outside
from sslpipe.tracking.record import Config
from sslpipe.tracking.store import recent_outage, store_uri
from sslpipe.tracking.sync import sync

# MLflow and SQLAlchemy warn about things of their own.
pytestmark = [pytest.mark.filterwarnings(f"ignore:::{name}") for name in ("mlflow", "sqlalchemy", "alembic")]

TOY = Config(experiment="toy")
KEY, OTHER = "a" * 16, "b" * 16


@pytest.fixture
def enter(monkeypatch):
    """Goes on in another folder, as a process that starts there."""

    def into(folder: Path) -> Path:
        from mlflow.tracking._tracking_service import utils

        utils._artifact_repos_cache.clear()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_ROOT", str(folder))
        return folder

    return into


@pytest.fixture
def moved(project, store, pipeline, enter):
    """The folder to which a project was moved after a run, and the ids of its runs."""
    ids = pipeline()
    follow()
    return enter(project.rename(project.parent / f"{project.name} #2")), ids


def locations() -> set[str]:
    """The folders before the runs' own in all locations of the store."""
    with sqlite3.connect(store_uri().removeprefix("sqlite:///")) as database:
        runs = database.execute("SELECT artifact_uri FROM runs").fetchall()
        (row,) = database.execute("SELECT artifact_location FROM experiments WHERE name = 'toy'").fetchall()
    database.close()
    return {row[0], *(location.rpartition("/")[0].rpartition("/")[0] for (location,) in runs)}


def test_moved_project_shows_its_pictures_and_writes_none_elsewhere(moved, project, record):
    folder, ids = moved
    summary = sync(TOY)
    old, new = project / "mlartifacts", folder / "mlartifacts"
    assert summary.moved == (
        f"MLflow looked for plots and reports in {old}, and does so in {new} from now on",
    )
    assert str(summary).endswith("\nMLflow is up to date")
    assert locations() == {new.as_uri()}
    parents, children = rows()
    assert artifacts(children[ids["knn"]].info.run_id) == ["environment.json", "plots/knn/confusion.png"]
    assert artifacts(parents[KEY].info.run_id) == ["report/index.html"]
    with record("knn", key=OTHER) as later:
        later.artifact("plots/knn")
    follow()
    assert artifacts(rows()[1][later.id].info.run_id) == ["environment.json", "plots/knn/confusion.png"]
    assert not project.exists()
    assert sync(TOY).moved == ()


def test_pages_follow_a_move_before_any_sync(moved, monkeypatch):
    folder, _ = moved
    (folder / "params.yaml").write_text("tracking: {experiment: toy}\n")
    monkeypatch.setattr(os, "execvpe", lambda *command: None)
    assert main(["ui"]) == 0
    assert locations() == {(folder / "mlartifacts").as_uri()}


def test_pictures_that_did_not_come_along_are_sent_again(moved):
    folder, ids = moved
    shutil.rmtree(folder / "mlartifacts")
    summary = sync(TOY)
    assert (summary.error, summary.runs) == (None, 3)
    parents, children = rows()
    assert artifacts(children[ids["knn"]].info.run_id) == ["environment.json", "plots/knn/confusion.png"]
    assert artifacts(parents[KEY].info.run_id) == ["report/index.html"]
    assert sync(TOY).runs == 0


def test_copied_project_leaves_the_first_one_alone(project, store, pipeline, record, enter):
    ids = pipeline()
    follow()
    before = sorted(path for path in project.rglob("mlartifacts/**/*"))
    copy = enter(Path(shutil.copytree(project, project.parent / f"{project.name}-copy")))
    with record("knn", key=OTHER) as run:
        run.artifact("plots/knn")
    assert sync(TOY).error is None
    assert locations() == {(copy / "mlartifacts").as_uri()}
    assert artifacts(rows()[1][ids["knn"]].info.run_id) == ["environment.json", "plots/knn/confusion.png"]
    enter(project)
    assert locations() == {(project / "mlartifacts").as_uri()}
    assert sorted(path for path in project.rglob("mlartifacts/**/*")) == before


def test_pictures_left_behind_are_named_with_both_places(project, store, pipeline, enter):
    pipeline()
    follow()
    clone = project.parent / f"{project.name}-clone"
    clone.mkdir()
    shutil.copy(store, clone / "mlflow.db")
    enter(clone)
    said = sync(TOY).error
    assert f"cp -r {project}/mlartifacts {clone}/mlartifacts" in said
    assert not (clone / "mlartifacts").exists()
    shutil.copytree(project / "mlartifacts", clone / "mlartifacts")
    assert sync(TOY).moved


def test_project_seen_through_a_link_is_not_a_moved_one(project, store, pipeline, enter):
    pipeline()
    follow()
    link = project.parent / f"{project.name}-link"
    link.symlink_to(project)
    enter(link)
    assert sync(TOY).moved == ()
    assert locations() == {(project / "mlartifacts").as_uri()}


def test_folder_that_somebody_chose_is_kept(project, store, tmp_path_factory):
    chosen = tmp_path_factory.mktemp("large-disk") / "pictures"
    client().create_experiment("toy", artifact_location=chosen.as_uri())
    assert follow_move(store_uri(), "toy") is None
    refuse_outside(chosen.as_uri(), store_uri(), "toy")


def test_stores_that_cannot_follow_a_move_are_refused_with_both_places(project):
    for uri in ("postgresql://host/runs", f"file://{project}/mlruns"):
        with pytest.raises(UserError, match=f"/old/mlartifacts, outside this project, {project}"):
            refuse_outside("file:///old/mlartifacts", uri, "toy")
        refuse_outside((project / "mlartifacts").as_uri(), uri, "toy")
        refuse_outside("s3://bucket/mlartifacts", uri, "toy")


def test_artifacts_lie_beside_a_database_that_projects_share(
    project, pipeline, tmp_path_factory, fresh_store
):
    shared = tmp_path_factory.mktemp("shared")
    shutil.copy(fresh_store[0], shared / "runs.db")
    tracking = Config(experiment="toy", uri=f"sqlite:///{shared}/runs.db")
    pipeline(tracking=tracking)
    assert sync(tracking).error is None
    assert len(list((shared / "mlartifacts").iterdir())) == 4
    assert not (project / "mlartifacts").exists()


def test_empty_database_has_nothing_to_follow(project):
    (project / "mlflow.db").touch()
    assert follow_move(store_uri(), "toy") is None


def test_note_of_a_moved_project_leads_to_its_own_store(project, enter):
    notes.announce("run", uri=None, experiment="toy")
    folder = enter(project.rename(project.parent / f"{project.name}-moved"))
    assert [note["uri"] for note in notes.waiting()] == [f"sqlite:///{folder}/mlflow.db"]


def test_experiment_that_is_refused_does_not_stop_the_current_one(project, store, record):
    with record("knn", tracking=Config(experiment="former")) as former:
        pass
    client().delete_experiment(client().create_experiment("former"))
    with record("linear") as run:
        pass
    summary = sync(TOY)
    assert summary.error is None
    assert summary.runs == 1
    (line,) = summary.skipped
    assert line.startswith("experiment former (")
    assert run.id in rows()[1]
    assert not [note for note in notes.waiting() if note["run"] == former.id]  # each would stop the follower
    assert not recent_outage(store_uri())
