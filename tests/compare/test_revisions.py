"""Revisions of a project, also of one that is a folder of a larger repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sslpipe.compare.revisions import locate
from sslpipe.console.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # DVC and what it stands on warn of things of their own

PIPELINE = """\
stages:
  knn:
    cmd: mkdir metrics && cp params.yaml metrics/knn.json
    deps: [params.yaml]
    outs: [metrics]
"""


def commit(word: str) -> None:
    name = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", *name, "commit", "-q", "--allow-empty", "-m", word], check=True)
    subprocess.run(["git", "tag", word], check=True)


@pytest.fixture(params=[".", "vision/ssl"])
def committed(request: pytest.FixtureRequest, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy project in a repository or in a folder of one: tags are `before` it, `fresh`, and the runs `one`, `two`."""
    from dvc.repo import Repo

    subprocess.run(["git", "init", "-q"], check=True)
    commit("before")
    folder = project / request.param
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    with Repo.init(subdir=request.param != ".") as repo:
        Path("dvc.yaml").write_text(PIPELINE)
        for word, number in (("fresh", 1), ("one", 1), ("two", 2)):
            Path("params.yaml").write_text(f'{{"knn": {{"top1": {number}}}}}\n')
            if word != "fresh":
                repo.reproduce()
            commit(word)
    return folder


def test_results_are_those_of_the_revision(committed: Path) -> None:
    for revision, number in (("one", 1), ("two", 2), ("HEAD~1", 1)):
        folder = locate(revision, Path("."))
        assert folder.is_relative_to(committed / ".sslpipe")
        for file in ("metrics/knn.json", "params.yaml"):
            assert (folder / file).read_text() == f'{{"knn": {{"top1": {number}}}}}\n'
    with pytest.raises(UserError, match=r"fresh has no results: its dvc\.lock was not committed"):
        locate("fresh", Path("."))
    with pytest.raises(UserError, match="no experiment, revision or folder `three`"):
        locate("three", Path("."))
    with pytest.raises(UserError, match="before has no results"):
        locate("before", Path("."))


def test_results_that_are_nowhere_are_asked_for(committed: Path) -> None:
    shutil.rmtree(".dvc/cache")
    with pytest.raises(UserError, match=r"not in DVC's cache .*`dvc pull`"):
        locate("one", Path("."))


def test_repository_that_git_refuses_is_said_with_the_command(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own, for tests
    with pytest.raises(UserError, match=r"git config --global --add safe\.directory"):
        locate("one", Path("."))
