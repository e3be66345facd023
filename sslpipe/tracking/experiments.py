"""An experiment: what makes two pipeline runs the same one, its name, and whether the workspace is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch, yaml

LAST_STAGE = "report"  # every other stage lies before it, so once it has run the workspace is one experiment


def experiment_key(resolved: Mapping[str, Any]) -> str:
    """The digest that names an experiment, 16 hexadecimal characters: of data, settings and code.

    Args:
        resolved: what each stage rests on, as in data/resolved; the last stage, which changes no result, is left out.
    """
    return scratch.digest({name: each for name, each in resolved.items() if name != LAST_STAGE})[:16]


def params_read(params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make the experiment: without `tracking` and the methods that were not chosen."""
    chosen = (f"methods.{params.get('pretrain.method')}",)
    return {
        name: value
        for name, value in params.items()
        if not within(name, ("tracking",)) and (within(name, chosen) or not within(name, ("methods",)))
    }


def within(name: str, sections: Iterable[str]) -> bool:
    """Whether a flat name lies in one of the sections: `knn.k` lies in `knn` (and in `knn.k`)."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def title(params: Mapping[str, Any], key: str) -> str:
    """A readable name of an experiment: method · backbone · data · short key."""
    parts = [params.get(name) for name in ("pretrain.method", "pretrain.backbone", "data.source")]
    return " · ".join(str(part) for part in [*parts, key[:6]] if part)


def behind(directory: str | Path, resolved: Mapping[str, Any]) -> list[str]:
    """The stages whose files in the workspace belong to other settings or code: `dvc repro` has not run through.

    dvc.lock tells what each stage read, `resolved` what it rests on now.
    """
    try:
        lock = yaml.read(Path(directory) / "dvc.lock").get("stages", {})
    except UserError:
        return []
    made = {out["path"]: out.get("md5") for entry in lock.values() for out in entry.get("outs", ())}
    made |= {f"data/resolved/{name}.json": scratch.md5_of_json(each) for name, each in resolved.items()}
    return sorted(
        address.rpartition("@")[2]
        for address, entry in lock.items()
        if any(made.get(dep["path"], dep.get("md5")) != dep.get("md5") for dep in entry.get("deps", ()))
    )
