"""Where a run happened: git state, Python, packages, machine. Nothing heavy is imported to find out."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "webdataset", "dvc", "mlflow")


def git_state(directory: str | Path = ".") -> dict[str, Any] | None:
    """Commit, branch and whether tracked files were changed; None outside a repository or without git."""
    commit = _answer(directory, "rev-parse", "--verify", "HEAD")
    branch = _answer(directory, "symbolic-ref", "--short", "-q", "HEAD")
    changes = _answer(directory, "status", "--porcelain", "--untracked-files=no")
    return None if changes is None else {"commit": commit, "branch": branch, "dirty": bool(changes)}


def git_refusal(directory: str | Path = ".") -> str | None:
    """What to do where git refuses a repository because another user owns it; None where it does not.

    Git's own message names the command; `dvc exp` refuses such a repository, too.
    """
    done = _git(directory, "rev-parse", "--git-dir")
    found = re.search(r"^\s*(git config .*safe\.directory .+)$", done.stderr if done else "", re.MULTILINE)
    if found is None:
        return None
    return (
        f"git refuses the repository of {Path(directory).resolve()} because another user owns it, so that no commit "
        f"is recorded and `dvc exp` fails: if you trust it, run `{found[1]}`"
    )


def environment() -> dict[str, Any]:
    """Versions and machine, as numbers and strings only."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
    }


def version_of(package: str) -> str | None:
    """The version of an installed package; none for one that is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _answer(directory: str | Path, *command: str) -> str | None:
    """What git says; None where it fails or is missing."""
    done = _git(directory, *command)
    return done.stdout.strip() if done and done.returncode == 0 else None


def _git(directory: str | Path, *command: str) -> subprocess.CompletedProcess[str] | None:
    # Looking must not take the index's lock: dvc or the user may be committing.
    looking = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return subprocess.run(
            ["git", *command], cwd=directory, env=looking, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
