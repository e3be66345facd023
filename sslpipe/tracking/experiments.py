"""An experiment: what makes two pipeline runs the same one, its name, and whether the workspace is one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.core import yaml as yaml12

LAST_STAGE = "report"  # every other stage lies before it, so once it has run the workspace is one experiment

# Code that looks at results but cannot change them: editing it does not make another experiment.
_ONLOOKERS = (
    "sslpipe/tracking/",
    "sslpipe/report/",
    "sslpipe/cli.py",
    "sslpipe/__main__.py",
    "stages/report.py",
)


def experiment_key(params: Mapping[str, Any], data_digest: str, code: str) -> str:
    """The digest that names an experiment: 16 hexadecimal characters.

    Args:
        params: every resolved setting, flat (`"pretrain.method"`). The section `tracking` and the settings of
            methods other than the chosen one are left out: nothing that runs reads them.
        data_digest: of the source images (data/source.json).
        code: from `code_digest`.
    """
    return scratch.digest({"params": params_read(params), "data": data_digest, "code": code})[:16]


def params_read(params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make the experiment: without `tracking` and the methods that were not chosen."""
    chosen = (f"methods.{params.get('pretrain.method')}",)
    return {
        name: value
        for name, value in params.items()
        if not within(name, ("tracking",)) and (within(name, chosen) or not within(name, ("methods",)))
    }


def code_digest(directory: str | Path = ".", method: str | None = None) -> str:
    """sha256 over the names and bytes of the code and the view recipes of `sslpipe/` and `stages/` under `directory`.

    Left out are the files that cannot change a result (tracking, report, the command line) and, where
    `method` is given, the files of all other methods.
    """
    directory, total = Path(directory), hashlib.sha256()
    for name in sorted(_code(directory)):
        if name.startswith(_ONLOOKERS) or (method and _is_other_method(name, method)):
            continue
        total.update(f"{name}\0{scratch.file_digest(directory / name)}\n".encode())
    return total.hexdigest()


def _code(directory: Path) -> Iterator[str]:
    for package, pattern in (("sslpipe", "*.py"), ("sslpipe/recipes", "*.yaml"), ("stages", "*.py")):
        for path in (directory / package).rglob(pattern):
            yield path.relative_to(directory).as_posix()


def _is_other_method(name: str, method: str) -> bool:
    folder, _, file = name.rpartition("/")
    if folder not in ("sslpipe/methods", "sslpipe/recipes"):
        return False
    return file not in ("__init__.py", "base.py", f"{method}.py", f"{method}.yaml")


def within(name: str, sections: Iterable[str]) -> bool:
    """Whether a flat name lies in one of the sections: `knn.k` lies in `knn` (and in `knn.k`)."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def title(params: Mapping[str, Any], key: str) -> str:
    """A readable name of an experiment: method · backbone · data · short key."""
    parts = (
        params.get("pretrain.method"),
        params.get("pretrain.backbone"),
        params.get("data.source"),
        key[:6],
    )
    return " · ".join(str(part) for part in parts if part)


def behind(directory: str | Path = ".") -> list[str]:
    """The stages whose files in the workspace belong to other settings: `dvc repro` has not run through.

    dvc.lock tells: a stage ran with other values than params.yaml holds now, or read another output of an
    earlier stage than the one that is there now. Changed code is not looked for.
    """
    lock = _yaml(Path(directory) / "dvc.lock").get("stages", {})
    made = {out["path"]: out.get("md5") for entry in lock.values() for out in entry.get("outs", ())}
    return sorted(stage for stage, entry in lock.items() if _is_behind(Path(directory), entry, made))


def _is_behind(directory: Path, entry: Mapping[str, Any], made: Mapping[str, str]) -> bool:
    read = {dep["path"]: dep.get("md5") for dep in entry.get("deps", ()) if dep["path"] in made}
    if any(made[path] != md5 for path, md5 in read.items()):
        return True
    for file, values in entry.get("params", {}).items():
        now = _yaml(directory / file)
        if any(_look_up(now, name) != value for name, value in values.items()):
            return True
    return False


def _look_up(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return yaml12.read(path)
    except UserError:
        return {}
