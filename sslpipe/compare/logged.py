"""A run that only MLflow knows, as files: parameters, numbers, protocols, and the copies of artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sslpipe import evals
from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.core.config import nest
from sslpipe.report.results import told_by_accuracy
from sslpipe.tracking.artifacts import follow_move_in_turn
from sslpipe.tracking.record import Config
from sslpipe.tracking.store import store_uri
from sslpipe.tracking.trouble import shown, trouble

Client = Any  # mlflow.MlflowClient; MLflow takes seconds to import
Run = Any  # mlflow.entities.Run

PREFIX = "mlflow:"
_STAGE = "stage."  # of tags that say which run of a stage an experiment's results are from


def fetch(name: str, tracking: Config) -> Path:
    """Write what MLflow holds of an experiment into a folder of scratch, as `report.run.read` takes it.

    It is called by the run's id, its name, or the short key that its name ends with.

    Raises:
        UserError: MLflow does not answer, or has no such run, or none with results.
    """
    from sslpipe.tracking.mlflow import client

    uri = store_uri(tracking.uri)
    try:
        follow_move_in_turn(uri, tracking.experiment)
        store = client(uri)
        run = _find(store, name, tracking.experiment)
        stages = _stages(store, run)
        folder = scratch.folder("compare", f"mlflow-{run.info.run_id}")
        _write(folder, run, stages)
        for stage in stages.values():
            store.download_artifacts(stage.info.run_id, "", str(folder))
    except UserError:
        raise
    except Exception as error:  # whatever MLflow and its store raise
        raise UserError(f"MLflow at {shown(uri)} cannot be asked: {trouble(error, uri).why}") from error
    return folder


def _find(store: Client, name: str, experiment: str) -> Run:
    found = store.get_experiment_by_name(experiment)
    runs = [] if found is None else _all(store, found.experiment_id, "tags.`sslpipe.key` LIKE '%'")
    fitting = [run for run in runs if name in _names(run)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"{len(fitting)} of MLflow's runs are called `{name}`: give one's id instead")
    known = ", ".join(_names(run)[2] for run in runs[:8])
    raise UserError(
        f"MLflow has no run `{name}` in `{experiment}`; known by their short keys: {known or 'none'}"
    )


def _names(run: Run) -> tuple[str, str, str]:
    return run.info.run_id, run.info.run_name or "", run.data.tags["sslpipe.key"][:6]


def _all(store: Client, experiment: str, which: str) -> list[Run]:
    runs: list[Run] = []
    page = None
    while True:
        found = store.search_runs([experiment], which, max_results=1000, page_token=page)
        runs += found
        if not (page := found.token):
            return runs


def _stages(store: Client, run: Run) -> dict[str, Run]:
    """By stage, the runs that an experiment's results are from: its own, or those whose results DVC had kept."""
    wanted = {
        value.partition(":")[2]: name.removeprefix(_STAGE)
        for name, value in run.data.tags.items()
        if name.startswith(_STAGE)
    }
    every = _all(store, run.info.experiment_id, "tags.`sslpipe.id` LIKE '%'")
    found = {
        wanted[each.data.tags["sslpipe.id"]]: each for each in every if each.data.tags["sslpipe.id"] in wanted
    }
    if not found:
        raise UserError(
            f"MLflow's run {run.info.run_name} has no finished stage: wait for it, or run `sslpipe sync`"
        )
    return found


def _write(folder: Path, run: Run, stages: Mapping[str, Run]) -> None:
    """The files that numbers, settings and digests are read from."""
    params = {name: yaml.safe_load(value) for name, value in run.data.params.items()}
    scratch.atomic_write(folder / "params.yaml", yaml.safe_dump(nest(params)))
    metrics = nest(run.data.metrics)
    digests: dict[str, Any] = {}
    images = None
    for name, stage in stages.items():
        protocol = json.loads(stage.data.tags.get("protocol", "{}"))
        numbers = {key: _whole(value) for key, value in metrics.get(name, {}).items()}
        record = _record(name, run, stage)
        if name in evals.names():
            record["result"] = {"metrics": numbers, "protocol": protocol, "skipped": None}
        scratch.write_json(folder / "runs" / f"{name}.json", record)
        scratch.write_json(folder / "metrics" / f"{name}.json", {name: numbers})
        if name in told_by_accuracy():
            digests |= protocol.get("digests", {})
            images = images or protocol.get("test_images")
    if images is not None:
        manifest = {"digest": digests.get("data"), "splits": {"test": {"count": images}}}
        scratch.write_json(folder / "data" / "shards" / "manifest.json", manifest)
    scratch.write_json(folder / "models" / "encoder.json", {"weights_sha256": digests.get("encoder")})


def _record(name: str, run: Run, stage: Run) -> dict[str, Any]:
    commit = stage.data.tags.get("mlflow.source.git.commit")
    return {
        "stage": name,
        "key": run.data.tags["sslpipe.key"],
        "started": stage.info.start_time,
        "finished": stage.info.end_time,
        "git": {"commit": commit} if commit else None,
    }


def _whole(value: Any) -> Any:
    """A count that MLflow, which knows only decimals, gave back as 100.0."""
    return int(value) if isinstance(value, float) and value.is_integer() and value > 1 else value
