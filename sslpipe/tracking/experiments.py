"""An experiment: what makes two pipeline runs the same one, its name, and its headline numbers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.core import yaml as yaml12
from sslpipe.tracking import journal

LAST_STAGE = "report"  # every other stage lies before it, so once it has run the workspace is one experiment


def experiment_key(data_digest: str, resolved: Mapping[str, Any]) -> str:
    """The digest that names an experiment: 16 hexadecimal characters.

    Args:
        data_digest: of the source images (data/source.json).
        resolved: settings and digests of the code of each stage, as in data/resolved; without the last stage, which
            cannot change a result.
    """
    return scratch.digest({"data": data_digest, "stages": dict(resolved)})[:16]


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
    parts = (
        params.get("pretrain.method"),
        params.get("pretrain.backbone"),
        params.get("data.source"),
        key[:6],
    )
    return " · ".join(str(part) for part in parts if part)


def headline(metrics_folder: str | Path, stage: str) -> dict[str, float]:
    """The numbers of `metrics/<stage>.json` as `<stage>.<name>`; none where the file cannot be read.

    The protocol is settings, not results, and is left out.
    """
    try:
        content = json.loads((Path(metrics_folder) / f"{stage}.json").read_text())
    except (OSError, ValueError):
        return {}
    return dict(_numbers(content, stage))


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "protocol":
                yield from _numbers(inner, f"{name}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, float(value)


def results_table(numbers: Mapping[str, float]) -> str:
    """Headline numbers as a Markdown table: each evaluation beside the same protocol on the baselines."""
    rows = [
        "| top-1 | encoder | random weights | raw pixels |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in numbers:
        evaluation, _, last = name.rpartition(".")
        if last == "top1":
            cells = [numbers.get(f"{evaluation}.{kind}top1") for kind in ("", "random_init_", "raw_pixel_")]
            label = evaluation.replace(".few_labels.", ", labels: ")
            rows.append(
                f"| {label} | " + " | ".join("–" if cell is None else f"{cell:.4f}" for cell in cells) + " |"
            )
    return (
        "\n".join([*rows, "", "The whole report: *Artifacts*, `report/index.html`."]) if len(rows) > 2 else ""
    )


def folder() -> Path:
    """Where scratch keeps one file an experiment."""
    return scratch.folder("experiments")


def remember(
    directory: str | Path, key: str, params: Mapping[str, Any], experiment: str | None
) -> dict[str, Any]:
    """Write `.sslpipe/experiments/<key>.json`: which run gave each stage's result, and its numbers.

    Only for a workspace whose stages are all up to date: leftovers of another experiment would be taken
    for this one's.
    """
    runs, path = workspace_runs(directory), folder() / f"{key}.json"
    former = _read(path) or {}
    for run in runs.values():
        _adopt(run)
    numbers: dict[str, float] = {}
    for stage in runs:
        numbers |= headline(Path(directory) / "metrics", stage)
    content = {
        "key": key,
        "experiment": experiment,
        "created": former.get("created", time.time_ns() // 1_000_000),
        "params": dict(params),
        "stages": {stage: run["id"] for stage, run in runs.items()},
        "headline": numbers,
    }
    if content != former:
        scratch.write_json(path, content)
    return content


def _adopt(run: dict[str, Any]) -> None:
    """Keep a copy of a record that was made elsewhere and came by `dvc pull`."""
    path = scratch.folder("runs") / run["id"] / journal.RECORD
    if not path.is_file():
        scratch.atomic_write(path, journal.record_text(run))


def records(experiment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The records of an experiment's stages by run id, in the order they started; missing ones left out."""
    found = [
        journal.read_record(scratch.root() / ".sslpipe" / "runs" / run)
        for run in experiment["stages"].values()
    ]
    return {
        record["id"]: record for record in sorted(filter(None, found), key=lambda record: record["started"])
    }


def recall(key: str) -> dict[str, Any] | None:
    """What `remember` wrote about one experiment."""
    return _read(folder() / f"{key}.json")


def remembered() -> list[dict[str, Any]]:
    """What `remember` wrote, oldest first."""
    found = [content for path in folder().glob("*.json") if (content := _read(path))]
    return sorted(found, key=lambda content: content["created"])


def workspace_runs(directory: str | Path = ".") -> dict[str, dict[str, Any]]:
    """The records in `runs/*.json` by stage, in the order the stages started."""
    found = [record for path in (Path(directory) / "runs").glob("*.json") if (record := _read(path))]
    return {record["stage"]: record for record in sorted(found, key=lambda record: record["started"])}


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


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # not there, or DVC has half removed it
    return content
