"""What MLflow shows, read back to compare."""

from __future__ import annotations

from sslpipe.tracking import sync
from sslpipe.tracking.store import store_uri

PARAMS = {
    "seed": 0,
    "data.source": "toy",
    "pretrain.method": "simclr",
    "pretrain.backbone": "small_resnet",
    "knn.k": 5,
}


def client():
    from mlflow import MlflowClient

    return MlflowClient(store_uri())


def rows(experiment="toy"):
    """Parents by key and children by record id."""
    number = client().get_experiment_by_name(experiment).experiment_id
    runs = client().search_runs([number], max_results=1000)
    parents = {run.data.tags["sslpipe.key"]: run for run in runs if "sslpipe.key" in run.data.tags}
    children = {run.data.tags["sslpipe.id"]: run for run in runs if "sslpipe.id" in run.data.tags}
    assert len(parents) + len(children) == len(runs)
    return parents, children


def contents():
    """Everything that MLflow shows, without the ids it draws itself."""
    parents, children = rows()
    number = {run.info.run_id: key for key, run in parents.items()}
    shown = {}
    for name, run in {**parents, **children}.items():
        tags = {key: number.get(value, value) for key, value in run.data.tags.items()}
        history = {
            metric: [
                (point.value, point.step, point.timestamp)
                for point in client().get_metric_history(run.info.run_id, metric)
            ]
            for metric in run.data.metrics
        }
        inputs = [(item.dataset.name, item.dataset.digest) for item in run.inputs.dataset_inputs]
        info = run.info
        times = (info.start_time, info.end_time)
        kept = artifacts(info.run_id)
        shown[name] = (info.run_name, info.status, times, run.data.params, tags, history, inputs, kept)
    return shown


def artifacts(run_id, folder=None):
    found = []
    for entry in client().list_artifacts(run_id, folder):
        found += artifacts(run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def follow():
    sync.follow(idle=0.0, interval=0.0)
