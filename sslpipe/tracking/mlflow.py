"""MLflow as a mirror of the records: the only file that imports it, and no stage imports this one.

Everything here may be done again: runs are found by the tags `sslpipe.key` (an experiment's parent row) and
`sslpipe.id` (a stage's child row), and metrics are replayed with the times they were recorded at, so that
they are not doubled. Callers hold `store.mirror_lock`: one process writes at a time.
"""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sslpipe import evals
from sslpipe.console.errors import UserError
from sslpipe.tracking import artifacts
from sslpipe.tracking.experiments import LAST_STAGE, params_read, title, within
from sslpipe.tracking.headline import results_table
from sslpipe.tracking.store import VIEW, artifacts_folder, note_page, served

# Classes of mlflow, whose import takes seconds: functions import it when they are called.
MlflowClient = Any
Run = Any

# A server that is down or slow is found out in seconds, not in minutes of retries.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that ends on a server
    "GIT_PYTHON_REFRESH": "quiet",
}
# The table of runs as `store.page` opens it: MLflow shows no metric by itself.
_VIEW = f"mlflow.sharedViewState.{VIEW}"
_COLUMNS = [
    f"params.`{name}`" for name in ("pretrain.method", "pretrain.backbone", "pretrain.epochs", "seed")
]
_BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits
_PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 6000, 8000, 36


class Mirror:
    """One experiment of one store.

    Raises:
        Exception: whatever MLflow raises, from any method; `trouble.trouble` puts it in words.

    Attributes:
        moved: where artifacts lay and lie now, where the project was moved since the last time.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        """Open the store, made if it is a new SQLite file, and get or create the experiment.

        Raises:
            UserError: the experiment was deleted in MLflow, or its artifacts lie outside the project.
        """
        self.uri, self.name = uri, experiment
        self.moved = artifacts.follow_move(uri, experiment)
        self.client = client(uri)
        found = existing(self.client, experiment)
        if found and not served(uri):
            artifacts.refuse_outside(found.artifact_location, uri, experiment)
        self.experiment = found.experiment_id if found else self._create(uri, experiment)
        note_page(uri, experiment, self.experiment)

    def _create(self, uri: str, experiment: str) -> str:
        # A database without a server has no artifact store of its own, and one made by default would lie in
        # the folder of this process, which may be a temporary experiment workspace.
        folder = None if served(uri) else artifacts_folder(uri).as_uri()
        # Without this tag MLflow's pages open on traces and prompts instead of training runs.
        tags = {"mlflow.experimentKind": "custom_model_development", _VIEW: json.dumps(_saved_view(()))}
        created: str = self.client.create_experiment(experiment, artifact_location=folder, tags=tags)
        if not served(uri):
            self._hide_default()
        return created

    def _hide_default(self) -> None:
        """Take the empty experiment `Default`, which MLflow puts into every new database, out of sight."""
        default = self.client.get_experiment_by_name("Default")
        if default is None or default.lifecycle_stage == "deleted":
            return
        if not self.client.search_runs([default.experiment_id], run_view_type=_ALL, max_results=1):
            # It is only in the way: some stores, such as folders of files, do not let it go.
            with suppress(Exception):
                self.client.delete_experiment(default.experiment_id)

    def find(self, tag: str, value: str) -> Run | None:
        """The run with this tag: a live one before one that was deleted in MLflow."""
        runs = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", run_view_type=_ALL)
        return min(runs, key=_deleted, default=None)

    def row(self, key: str) -> Run | None:
        """An experiment's row, unless it was deleted in MLflow."""
        run = self.find("sslpipe.key", key)
        return None if run is None or _deleted(run) else run

    def mirrored(self) -> dict[str, Run]:
        """The child runs that are whole (or were deleted in MLflow on purpose), by the id of their record.

        One whose artifacts are gone, as after a move without them, is not whole.
        """
        whole: dict[str, Run] = {}
        page = None
        while True:
            query = "tags.`sslpipe.id` LIKE '%'"
            found = self.client.search_runs([self.experiment], query, _ALL, 1000, page_token=page)
            for run in found:
                kept = run.data.tags.get("sslpipe.mirrored") and artifacts.there(run.info.artifact_uri)
                if kept or _deleted(run):
                    whole[run.data.tags["sslpipe.id"]] = run
            if not (page := found.token):
                return whole

    def parent(self, key: str, params: Mapping[str, Any], started: int) -> str:
        """The id of an experiment's row, created with all its parameters if it is not there."""
        run = self.row(key)
        if run is None:
            tags = {"sslpipe.key": key, "mlflow.source.name": "dvc repro", "mlflow.source.type": "PROJECT"}
            run = self.client.create_run(self.experiment, started, tags, run_name=title(params, key))
        # Also when the row was there: its maker may have been killed in between.
        self._params(run, params_read(params))
        return str(run.info.run_id)

    def open_child(self, head: Mapping[str, Any]) -> str:
        """The id of the row of a stage's run, created under its experiment's if it is not there."""
        run = self.find("sslpipe.id", head["id"])
        if run is None:
            parent = self.parent(head["key"], head["params"], head["started"])
            tags = {"mlflow.parentRunId": parent, **_child_tags(head)}
            run = self.client.create_run(self.experiment, head["started"], tags, run_name=head["stage"])
        params = params_read(head["params"])
        self._params(run, {name: value for name, value in params.items() if within(name, head["own"])})
        return str(run.info.run_id)

    def replay(self, run_id: str, events: Iterable[Mapping[str, Any]]) -> None:
        """Send metrics, tags, data set and artifacts of journal events."""
        metrics, tags = [], {}
        for event in events:
            if event["event"] == "metrics":
                metrics += _metrics(event["values"], event["time"], event["step"])
            elif event["event"] == "tag":
                tags[event["name"]] = event["value"]
            elif event["event"] == "artifact":
                tags[f"artifact.{event['path']}"] = event["sha256"]
            elif event["event"] == "dataset":
                self._dataset(run_id, event)
        self._log(run_id, "metrics", metrics)
        self._tags(run_id, tags)

    def close_child(self, run_id: str, record: Mapping[str, Any], folder: Path) -> None:
        """Send what is known at the end, the copies of artifacts, and what it means for the experiment."""
        self.client.log_dict(run_id, {"git": record["git"], **record["environment"]}, "environment.json")
        self._artifacts(run_id, folder)
        self._end(run_id, record["status"], record["finished"])
        if record["status"] != "finished":
            self.settle(record["key"], record["status"], record["finished"])
        elif row := self.row(record["key"]):
            parent = row.info.run_id
            self._result(parent, record, record["headline"])
            self._tags(parent, {f"stage.{record['stage']}": f"executed:{record['id']}"})
            if record["stage"] == LAST_STAGE:
                self._artifacts(parent, folder)
        self._tags(run_id, {"sslpipe.mirrored": "true"})

    def running(self, head: Mapping[str, Any]) -> None:
        """Show the experiment of a stage's run as running."""
        row = self.parent(head["key"], head["params"], head["started"])
        self.client.update_run(row, status="RUNNING")

    def settle(self, key: str, status: str, finished: int) -> None:
        """Show an experiment of which nothing runs as ended, where it is shown as something else."""
        if row := self.row(key):
            self._end(row.info.run_id, status, finished)

    def summarise(self, experiment: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> bool:
        """Bring an experiment's row up to date with a whole workspace; whether it was made or changed.

        Args:
            experiment: what `memory` holds of it.
            records: of its stages, those whose results came from the cache too, by run id; some may be missing.
        """
        key, before = experiment["key"], self.find("sslpipe.key", experiment["key"])
        if before is not None and _deleted(before):
            return False
        parent = self.parent(key, experiment["params"], experiment["created"])
        numbers, tags = experiment["headline"], {}
        for stage, run in experiment["stages"].items():
            record = records.get(run)
            tags[f"stage.{stage}"] = f"{'executed' if record and record['key'] == key else 'reused'}:{run}"
            if record:
                own = {name: value for name, value in numbers.items() if within(name, (record["stage"],))}
                self._result(parent, record, own)
        self._tags(parent, {**tags, "mlflow.note.content": results_table(numbers)})
        self._show_columns(numbers)
        after = self.client.get_run(parent).data.to_dictionary()
        return before is None or bool(before.data.to_dictionary() != after)

    def _show_columns(self, numbers: Iterable[str]) -> None:
        """Keep a saved view of the table of runs with a column for each headline result seen so far."""
        saved = self.client.get_experiment(self.experiment).tags.get(_VIEW)
        former = json.loads(saved)["selectedColumns"] if saved else []
        columns = [f"metrics.`{_name(name)}`" for name in evals.headlines(numbers)]
        view = json.dumps(_saved_view([*former, *columns]))
        if view != saved:
            self.client.set_experiment_tag(self.experiment, _VIEW, view)

    def _result(self, parent: str, record: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Show a stage's headline numbers and its data set beside the experiment."""
        self._log(parent, "metrics", _metrics(numbers, record["finished"]))
        if record["dataset"]:
            self._dataset(parent, record["dataset"])

    def _params(self, run: Run, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        # A logged parameter cannot change; only what is missing is sent.
        missing = {name: value for name, value in params.items() if _name(name) not in run.data.params}
        texts = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in missing.items()
        }
        entries = [Param(_name(name), text[:_PARAM_LENGTH]) for name, text in texts.items()]
        self._log(run.info.run_id, "params", entries)

    def _tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._log(run_id, "tags", [RunTag(_name(name), value[:_TAG_LENGTH]) for name, value in tags.items()])

    def _log(self, run_id: str, kind: str, entities: list[Any]) -> None:
        size = _BATCH[kind]
        for start in range(0, len(entities), size):
            self.client.log_batch(run_id, **{kind: entities[start : start + size]})

    def _artifacts(self, run_id: str, folder: Path) -> None:
        if (folder / "artifacts").is_dir():
            self.client.log_artifacts(run_id, str(folder / "artifacts"))

    def _dataset(self, run_id: str, dataset: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        source = json.dumps({"uri": dataset["source"]})
        entry = Dataset(dataset["name"], dataset["digest"][:_DIGEST_LENGTH], "local", source)
        self.client.log_inputs(run_id, [DatasetInput(entry)])

    def _end(self, run_id: str, status: str, finished: int) -> None:
        info = self.client.get_run(run_id).info
        if (info.status, info.end_time) != (status.upper(), finished):
            self.client.set_terminated(run_id, status.upper(), finished)


def _saved_view(columns: Iterable[str]) -> dict[str, Any]:
    return {"selectedColumns": list(dict.fromkeys([*_COLUMNS, *columns]))}


_ALL = 3  # mlflow.entities.ViewType.ALL, without the import


def load() -> type[MlflowClient]:
    """The class of MLflow's clients, patient as `ENVIRONMENT` says. The first time takes seconds."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # read at import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient


def client(uri: str) -> MlflowClient:
    """MLflow's client of a store."""
    kind = load()
    # It tells of each table that it makes in a new store.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(tracking_uri=uri)


def existing(store: MlflowClient, experiment: str) -> Any | None:
    """An experiment of MLflow by its name; None where there is none yet.

    Raises:
        UserError: it was deleted, and its name cannot be used.
    """
    found = store.get_experiment_by_name(experiment)
    if found and found.lifecycle_stage == "deleted":
        raise UserError(
            f"the experiment `{experiment}` was deleted in MLflow: restore it there or set "
            "`tracking.experiment` to another name"
        )
    return found


def _child_tags(head: Mapping[str, Any]) -> dict[str, str]:
    git = head["git"] or {}
    known = {
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "git.dirty": str(git["dirty"]).lower() if git else None,
        "dvc.experiment": head["dvc_experiment"],
        "environment.python": head["environment"]["python"],
        "environment.torch": head["environment"]["packages"].get("torch"),
        "environment.platform": head["environment"]["platform"],
    }
    return {
        "sslpipe.id": head["id"],
        "sslpipe.stage": head["stage"],
        "mlflow.source.name": f"stages.{head['stage']}",
        "mlflow.source.type": "LOCAL",
        **{name: value for name, value in known.items() if value},
    }


def _name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def _metrics(values: Mapping[str, Any], when: int, step: int = 0) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(_name(name), float(value), when, step) for name, value in values.items()]


def _deleted(run: Run) -> bool:
    return bool(run.info.lifecycle_stage == "deleted")
