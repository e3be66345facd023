"""From one method to another by `dvc exp run`, and back to the first, which nothing computes again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from dvc_project import STAGES, Project, files, ran

AFTER_METHOD = STAGES[2:]
#: What is switched to: one that first trains something else. test_pretraining.py trains each one.
OTHER = "beit"
pytestmark = [pytest.mark.slow, pytest.mark.pipeline]


def test_switching_methods_runs_what_must_and_switching_back_restores(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.clone(tmp_path / "project", tracking=True)
    simclr = {
        path: project.bytes(path)
        for path in sorted(files(project))
        if path.startswith(("models", "metrics", "runs"))
    }
    output = project.run("dvc", "exp", "run", "-S", f"pretrain.method={OTHER}", "--name", "the-other").stdout
    assert ran(output) == ["source", *AFTER_METHOD]
    shown = project.run("dvc", "exp", "show", "--csv").stdout
    assert "the-other" in shown
    assert "knn.top1" in shown
    assert project.json("models/encoder.json")["info"]["method"] == OTHER
    assert math.isfinite(project.json("metrics/pretrain.json")["pretrain"]["loss"])
    assert (project.folder / "plots/pretrain/predicted_words.png").is_file()
    project.set(pretrain__method="simclr")
    output = project.repro()
    assert ran(output) == ["source"]
    assert "cached" in output
    assert {path: project.bytes(path) for path in simclr} == simclr
    summary = project.run("sslpipe", "sync").stdout
    assert "MLflow" in summary
    check_rows(project)


def check_rows(project: Project) -> None:
    """MLflow has one parent row a method, with children; shared stages are marked reused."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(run.data.params["pretrain.method"] for run in parents) == [OTHER, "simclr"]
    for parent in parents:
        for metric in ("knn.top1", "linear.top1", "finetune.top1", "linear.random_init_top1"):
            assert metric in parent.data.metrics
        first = parent.data.params["pretrain.method"] == "simclr"
        assert parent.data.tags["stage.shard"].startswith("executed:" if first else "reused:")
        assert parent.data.tags["stage.pretrain"].startswith("executed:")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId")]
    pretrain = [
        run
        for run in children
        if run.data.params.get("pretrain.epochs") == "2" and "loss" in run.data.metrics
    ]
    assert len(pretrain) == 2
    assert len(client.get_metric_history(pretrain[0].info.run_id, "loss")) > 1
    assert all(run.inputs.dataset_inputs for run in pretrain)
