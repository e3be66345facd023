"""What dvc.yaml says of each stage: the data, the code and the settings that can change its result.

dvc.yaml is the one definition of that. Code and settings stand under `meta`, as rooms and sections. Stage `source`,
which always runs, writes digests of the one and resolved values of the other into data/resolved/NAME.json, which the
stage NAME depends on (docs/decisions/0016). So DVC, a checkpoint's fingerprint and an experiment's key rest on that.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslpipe.core import scratch, yaml

RESOLVED = Path("data/resolved")
#: Rooms that no stage names: they look at results, and cannot change one.
ONLOOKERS = ("sslpipe/console", "sslpipe/tracking", "sslpipe/training/launch")
#: In `meta.code`, the file of the method that is chosen.
METHOD = "<method>"


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str  # the last part of its address, such as `knn`
    address: str  # what DVC calls it, such as `features@knn`
    deps: tuple[str, ...]  # the data that it reads
    outs: tuple[str, ...]  # what it writes
    code: tuple[str, ...]  # files and folders, from the project's root; `<method>` is the chosen method
    settings: tuple[str, ...]  # sections of the settings, or single keys of one (`views.size`)


def stages(file: str | Path = "dvc.yaml") -> dict[str, Stage]:
    """All stages by name, in the order of dvc.yaml; those of a `foreach` one by one."""
    found: dict[str, Stage] = {}
    for name, entry in yaml.read(file)["stages"].items():
        if "foreach" not in entry:
            found[name] = _stage(name, name, entry)
        for item in entry.get("foreach", ()):
            filled = json.loads(json.dumps(entry["do"]).replace("${item}", item))
            found[item] = _stage(item, f"{name}@{item}", filled)
    return found


def _stage(name: str, address: str, entry: dict[str, Any]) -> Stage:
    meta = entry.get("meta", {})
    outs = [*entry.get("outs", ()), *entry.get("metrics", ())]
    rooms = meta.get("code", ())
    return Stage(
        name=name,
        address=address,
        deps=tuple(entry.get("deps", ())),
        outs=tuple(str(next(iter(out))) if isinstance(out, dict) else str(out) for out in outs),
        code=tuple(room if room.startswith("stages/") else f"sslpipe/{room}" for room in rooms),
        settings=tuple(meta.get("settings", ())),
    )


def code_digests(stage: Stage, method: str, root: str | Path = ".") -> dict[str, str]:
    """Digests of a stage's code by file or room, where `method` is the chosen one."""
    rooms = [room.replace(METHOD, method) for room in stage.code]
    return {room: _digest(Path(root), room) for room in rooms}


@functools.cache
def _digest(root: Path, room: str) -> str:
    """Of the names and bytes of a room's Python and YAML files, those of folders below included."""
    place = root / room
    files = [place] if place.is_file() else sorted([*place.rglob("*.py"), *place.rglob("*.yaml")])
    return scratch.digest([[file.relative_to(root).as_posix(), scratch.file_digest(file)] for file in files])


def resolved(root: str | Path = ".") -> dict[str, dict[str, Any]]:
    """What data/resolved holds, by stage; empty where nothing has been resolved yet, as in work without a pipeline."""
    files = sorted((Path(root) / RESOLVED).glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}
