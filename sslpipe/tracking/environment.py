"""Where a run happened: git state, Python, packages, machine. Nothing heavy is imported to find out."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "webdataset", "dvc", "mlflow")


def git_state(directory: str | Path = ".") -> dict[str, Any] | None:
    """Commit, branch and whether tracked files were changed; None outside a repository or without git."""
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    branch = _git(directory, "symbolic-ref", "--short", "-q", "HEAD")
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return None if changes is None else {"commit": commit, "branch": branch, "dirty": bool(changes)}


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


def _git(directory: str | Path, *command: str) -> str | None:
    try:
        # Looking must not take the index's lock: dvc or the user may be committing.
        looking = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.check_output(
            ["git", *command], cwd=directory, env=looking, stderr=subprocess.DEVNULL, text=True, timeout=5
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
