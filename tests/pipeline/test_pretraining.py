"""What the stages views and pretrain do, in this process: for every method, as switching to each would take long."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dvc_project import Project

import sslpipe
from sslpipe import methods
from sslpipe.core.scratch import atomic_write
from sslpipe.settings import load
from sslpipe.shards import manifest as manifests
from sslpipe.training.core import fingerprint
from sslpipe.training.core.assembly import RECIPE, SHARDS
from sslpipe.training.core.build import build_recipe
from sslpipe.training.core.config import Setup
from sslpipe.training.core.run import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", methods.names())
def test_every_method_gives_an_encoder(
    name: str, finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = finished.clone(tmp_path / "project")
    for path in ("models/encoder.safetensors", "models/encoder.json", "metrics/pretrain.json"):
        (project.folder / path).unlink()
    project.set(pretrain__method=name)
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("DVC_ROOT", str(project.folder))
    settings = load(Path("params.yaml"))
    pretrain, method, views = settings.pretrain, settings.method, settings.views
    manifest = manifests.read(SHARDS)
    recipe = build_recipe(pretrain, method, views, manifest.recipe, **manifest.statistics.model_dump())
    atomic_write(RECIPE, recipe.to_json())
    setup = Setup(pretrain, method, 0, views, settings.loader)
    parts = fingerprint.parts(setup, {})
    metrics = run(setup, parts).metrics
    assert project.json("metrics/pretrain.json")["pretrain"]["loss"] == metrics["loss"]
    assert metrics["steps"] == 2 * 3  # two epochs of 90 images
    assert math.isfinite(metrics["loss"])
    assert {"knn_top1", "rankme", "feature_std", "collapsed"} <= metrics.keys()
    looks = (project.folder / "plots/pretrain/monitor.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in looks] == ["epoch", "0", "1", "2"]
    unwatched = pretrain.model_copy(update={"monitor_epochs": 0, "stop_on_collapse": True})
    assert fingerprint.parts(replace(setup, pretrain=unwatched), {}) == parts
    assert project.json("models/encoder.json")["info"]["method"] == name
    encoder = sslpipe.load_encoder(project.folder / "models/encoder.safetensors")
    with torch.inference_mode():
        assert torch.isfinite(encoder(torch.zeros(2, 3, 16, 16))).all()
    assert not list((project.folder / ".sslpipe" / "pretrain").glob("*/*.safetensors"))
