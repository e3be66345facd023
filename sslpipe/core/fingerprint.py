"""What a result depends on, as digests: two runs with the same fingerprint may continue each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslpipe.core.scratch import file_digest
from sslpipe.core.yaml import read


def dependencies(stage: str, params: Mapping[str, Any], pipeline: str | Path = "dvc.yaml") -> list[str]:
    """The paths that dvc.yaml names as the stage's deps, `${key}` filled in from flat params.

    Without a dvc.yaml (in-process use) there are none.
    """
    if not Path(pipeline).is_file():
        return []
    deps = read(pipeline)["stages"][stage].get("deps", [])
    return [re.sub(r"\$\{([^}]+)\}", lambda found: str(params[found[1]]), dep) for dep in deps]


def code(stage: str, params: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of each Python file among the stage's deps."""
    files: set[Path] = set()
    for dep in map(Path, dependencies(stage, params)):
        files.update(dep.rglob("*.py") if dep.is_dir() else [dep] if dep.suffix == ".py" else [])
    return {file.as_posix(): file_digest(file) for file in sorted(files)}
