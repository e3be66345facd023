"""One path, end to end: `dvc repro`, twice, switched off and on, on real digits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dvc_project import ROOT, STAGES, Project, commit, files, ran

from sslpipe import methods
from sslpipe.core import fingerprint
from sslpipe.settings import load

pytestmark = pytest.mark.pipeline

# Loaded only to validate settings, by all stages but those that name them.
VALIDATION = {"sslpipe/settings.py", "sslpipe/core/yaml.py"}
# Dependencies that a run imports only where the chosen backbone or the device needs them.
ON_DEMAND = {
    "sslpipe/core/numba.py",
    "sslpipe/shards/scaling/loops.py",
    "sslpipe/methods/base/pictures.py",
    "sslpipe/networks/from_timm.py",
    "sslpipe/networks/from_torchvision.py",
    "sslpipe/networks/lab.py",
    "sslpipe/views/render/triton.py",
    "sslpipe/views/render/triton_kernels.py",
}


def test_the_first_run_leaves_what_the_house_says(everything: Project) -> None:
    finished, left = everything, files(everything)
    expected = {
        "data/source.json", "data/shards/manifest.json", "data/shards/train/train-000000.tar",
        "data/shards/test/test-000000.tar", "data/views/recipe.json", "plots/views/sheet.png",
        "plots/views/parameters.csv", "metrics/views.json", "plots/pretrain/watch.csv",
        "models/encoder.safetensors", "models/encoder.json", "metrics/pretrain.json", "plots/pretrain/curves.csv",
        "data/features/train.safetensors", "data/features/test.safetensors", "metrics/knn.json",
        "plots/knn/confusion.csv", "plots/knn/neighbours.json", "metrics/linear.json",
        "plots/linear/label_efficiency.csv", "plots/linear/confusion.csv", "metrics/finetune.json",
        "metrics/diagnostics.json", "plots/diagnostics/eigenspectrum.csv", "metrics/robustness.json",
        "plots/robustness/invariance.csv", "plots/robustness/corruptions.csv", "report/index.html",
    }  # fmt: skip
    assert expected <= left
    assert {f"runs/{stage}.json" for stage in STAGES} <= left
    for stage in ("knn", "linear", "finetune", "robustness"):
        metrics = finished.json(f"metrics/{stage}.json")
        assert 0 <= metrics["random_init_top1"] <= 1
        assert 0 < metrics["top1"] <= 1
        assert metrics["protocol"]["chosen_on"]
        card = metrics["protocol"]["digests"]
        assert card["data"] == finished.json("data/shards/manifest.json")["digest"]
        assert card["encoder"] == finished.json("models/encoder.json")["weights_sha256"]
    assert not list(
        (finished.folder / ".sslpipe" / "pretrain").glob("*/*.safetensors")
    )  # checkpoints are gone


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_deps_name_every_file_it_imports_and_no_other(everything: Project, stage: str) -> None:
    finished = everything
    flat = load(finished.folder / "params.yaml", sections=()).flat()
    deps = fingerprint.dependencies(stage, flat, finished.folder / "dvc.yaml")
    imported = set(finished.json(f".trace/{stage}.json")) - (VALIDATION - set(deps))
    folders = tuple(f"{dep}/" for dep in deps if list((finished.folder / dep).glob("*.py")))
    named = {dep for dep in deps if dep.endswith(".py")}
    assert {f for f in imported - named if not f.startswith(folders)} == set(), (
        "imported, but not among the deps"
    )
    assert named - imported - ON_DEMAND == set(), "among the deps, but not imported"
    assert all(any(f.startswith(folder) for f in imported) for folder in folders)


def test_a_second_run_runs_only_source(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    record = project.bytes("runs/source.json")
    assert ran(project.repro()) == ["source"]
    assert project.bytes("runs/source.json") == record
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_changing_a_setting_of_another_method_runs_nothing(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    project.set(methods__byol__momentum=0.5)
    with (project.folder / "sslpipe/methods/byol.py").open("a") as file:
        file.write("\n# a remark\n")
    assert ran(project.repro()) == ["source"]


def test_changing_a_recipe_of_another_method_trains_nothing(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    with (project.folder / "sslpipe/recipes/byol.yaml").open("a") as file:
        file.write("\n# a remark\n")
    assert ran(project.repro("pretrain")) == ["source", "views"]


def test_evaluations_switched_off_say_so_and_the_dag_stays(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    off = ["knn", "finetune"]
    project.set(**{f"{stage}__enabled": False for stage in off})
    said = project.repro()
    # transfer follows the section knn, and is off, too.
    assert ran(said) == ["source", *off, "transfer", "report"]
    assert "WARNING" not in said  # DVC's, of empty folders
    for stage in off:
        assert (
            project.bytes(f"plots/{stage}/skipped.txt")
            == f"{stage}.enabled is false in params.yaml\n".encode()
        )
        assert project.json(f"metrics/{stage}.json") == {
            "skipped": f"{stage}.enabled is false in params.yaml"
        }
    assert "knn.enabled is false" in project.bytes("report/index.html").decode()


def test_images_without_labels_are_trained_on_and_evaluations_say_why_not(
    fresh: Project, tmp_path: Path
) -> None:
    project = fresh.clone(tmp_path / "project")
    flat = project.folder / "data/raw/flat"
    flat.mkdir()
    for number, image in enumerate(sorted((project.folder / "data/raw/digits").rglob("*.png"))):
        image.rename(flat / f"{number:04d}.png")
    (flat / "broken.jpg").write_text("not an image")
    project.set(
        data__root="data/raw/flat", pretrain__epochs=1, diagnostics__enabled=True, robustness__enabled=True
    )
    assert ran(project.repro()) == STAGES
    for stage in ("knn", "linear", "finetune"):
        assert "no labels" in project.json(f"metrics/{stage}.json")["skipped"]
    for stage, number in (("diagnostics", "rankme"), ("robustness", "invariance")):
        assert project.json(f"metrics/{stage}.json")[number]
    assert project.json("metrics/shard.json")["rejects"] == 1
    page = project.bytes("report/index.html").decode()
    assert "no labels" in page
    assert "broken.jpg" in page
    table = project.run("sslpipe", "table").stdout
    assert "no labels" in table


def test_a_changed_image_is_noticed(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    first = min((project.folder / "data/raw/digits").rglob("*.png"))
    first.unlink()
    assert ran(project.repro("shard")) == ["source", "shard"]
    assert project.json("metrics/shard.json")["train"] == 89


def test_an_exported_encoder_is_of_use_elsewhere(finished: Project) -> None:
    import torch
    from PIL import Image

    import sslpipe

    encoder = sslpipe.load_encoder(finished.folder / "models/encoder.safetensors")
    image = Image.open(min((finished.folder / "data/raw/digits").rglob("*.png")))
    with torch.inference_mode():
        assert encoder(encoder.preprocess([image, image])).shape == (2, encoder.dim)


def test_dvc_shows_metrics_params_and_plots(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    shown = project.run("dvc", "metrics", "show").stdout
    assert "top1" in shown
    project.set(knn__k=1)
    project.repro("knn")
    difference = project.run("dvc", "metrics", "diff").stdout
    assert re.search(r"knn\.json\s+protocol\.k\s+5\s+1\s+-4", difference)
    assert "knn.k" in project.run("dvc", "params", "diff").stdout
    project.run("dvc", "plots", "show", "-o", "shown")
    page = (project.folder / "shown/index.html").read_text()
    for title in ("Training loss", "Confusion", "Label efficiency"):
        assert title in page


def test_the_comments_of_params_yaml_name_every_method() -> None:
    commented = (ROOT / "params.yaml").read_text()
    for name in methods.names():
        assert name in commented


def test_everything_committed_leaves_the_tree_clean(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    commit(project)
    assert project.run("git", "status", "--porcelain").stdout == ""
    tracked = project.run("git", "ls-files").stdout.splitlines()
    assert not [name for name in tracked if name.startswith(("metrics", "models", "plots", "runs", "report"))]
    assert "dvc.lock" in tracked
