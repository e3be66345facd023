"""The files of a run that lies elsewhere: another folder, a DVC experiment, a git revision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sslpipe.compare import logged
from sslpipe.console.errors import UserError
from sslpipe.console.spelling import nearest
from sslpipe.core import scratch
from sslpipe.report.results import told_by_accuracy
from sslpipe.settings import load
from sslpipe.tracking.environment import git_refusal

_FILES = (
    "params.yaml", "data/shards/manifest.json", "models/encoder.json", "metrics", "runs", "plots/pretrain"
)  # fmt: skip
_SUFFIXES = {".json", ".csv", ".yaml"}


def paths() -> tuple[str, ...]:
    """What a comparison reads of a run. Folders are read whole."""
    return (*_FILES, *(f"plots/{name}" for name in told_by_accuracy()))


def locate(name: str, root: Path) -> Path:
    """The folder of a run of the project in `root`.

    It is called `.` or `workspace`, by a folder with `metrics/`, by `mlflow:` and what it is called there, or by an
    experiment or revision.

    Raises:
        UserError: there is no such run, or its results are not in DVC's cache.
    """
    if name in (".", "workspace"):
        return root
    if name.startswith(logged.PREFIX):
        tracking = load(root / "params.yaml", sections=()).tracking
        return logged.fetch(name.removeprefix(logged.PREFIX), tracking)
    if Path(name, "metrics").is_dir():
        return Path(name)
    return _fetched(name, root)


def _fetched(name: str, root: Path) -> Path:
    """A revision's files, copied out of git and DVC's cache into scratch; once for each revision."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError, SCMError, resolve_rev

    if refusal := git_refusal(root):
        raise UserError(f"{name} cannot be looked up: {refusal}")
    try:
        repo = Repo(str(root))
        revision = resolve_rev(repo.scm, name)
    except (RevError, DvcException, SCMError) as error:
        if Path(name).is_dir():
            raise UserError(f"{name} has no folder metrics: it is not the folder of a run") from None
        if isinstance(error, RevError):
            raise UserError(_unknown(name, repo)) from None
        raise UserError(f"{name} cannot be looked up: {error}") from error
    folder = scratch.folder("compare", revision[:16])
    if not (folder / "complete").exists():
        _copy(repo, name, revision, folder)
        scratch.atomic_write(folder / "complete", "")
    return folder


def _copy(repo: Any, name: str, revision: str, folder: Path) -> None:
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc_data.index import DataIndexDirError

    try:
        with repo.switch(revision):  # also where the project is a folder of a larger repository
            _copy_from(repo.dvcfs, folder)
    except NotDvcRepoError:
        raise UserError(f"{name} has no results: this project was not in its folder yet") from None
    except (OSError, DvcException, DataIndexDirError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"{name}: its results are not in DVC's cache ({error}): if they were pushed, `dvc pull` gets them in a "
            f"checkout of it, or `dvc exp pull REMOTE {name}` if it is an experiment; else run it again"
        ) from error
    if not (folder / "metrics").is_dir():
        raise UserError(f"{name} has no results: its dvc.lock was not committed with a finished run")


def _copy_from(system: Any, folder: Path) -> None:
    """Copy what a comparison reads of a project that a file system of DVC holds: `/` is the project's folder."""
    for path in (f"/{path}" for path in paths()):
        if not system.exists(path):
            continue
        for file in system.find(path) if system.isdir(path) else [path]:
            if Path(file).suffix in _SUFFIXES:
                target = folder / file.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(file, str(target))


def _unknown(name: str, repo: Any) -> str:
    from dvc.exceptions import DvcException

    try:
        found = repo.experiments.ls(all_commits=True)
    except (DvcException, OSError):
        found = {}
    known = sorted(str(each[0]) for group in found.values() for each in group)
    near = nearest(name, known, cutoff=0.5)
    hint = f"did you mean {near}?" if near else f"experiments: {', '.join(known) or 'none'}"
    return f"there is no experiment, revision or folder `{name}`; {hint}"
