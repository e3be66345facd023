"""What is recorded of git, also where it refuses to answer."""

from __future__ import annotations

import subprocess

import pytest

from sslpipe.tracking.environment import git_refusal, git_state


@pytest.fixture
def repository(project):
    for command in (
        ("init", "-q", "-b", "main"),
        ("-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "one"),
    ):
        subprocess.run(["git", *command], check=True)
    return project


@pytest.fixture
def foreign(repository, monkeypatch):
    """The repository as if another user owned it: git has this switch for its own tests."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    return repository


def test_state_is_commit_branch_and_changes(repository):
    (repository / "new").touch()
    state = git_state()
    assert state["branch"] == "main"
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    assert git_refusal() is None


def test_outside_a_repository_nothing_is_refused(project):
    assert git_state() is None
    assert git_refusal() is None


def test_repository_of_another_user_is_named_with_the_command(foreign):
    assert git_state() is None
    assert git_refusal().endswith(f"run `git config --global --add safe.directory {foreign}`")


def test_record_warns_of_it_once_a_pipeline_run(foreign, record, capsys):
    for stage in ("knn", "linear"):
        with record(stage):
            pass
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert f"git config --global --add safe.directory {foreign}" in said


def test_record_does_not_warn_where_there_is_no_repository(project, record, capsys):
    with record():
        pass
    assert capsys.readouterr().err == ""
