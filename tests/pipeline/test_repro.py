"""One path, end to end: `dvc repro`, twice, switched off and on, on real digits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from dvc_project import STAGES, Project, commit, files, ran

from sslpipe.core import pipeline
from sslpipe.settings import load

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="session")
def joints(everything: Project) -> set[str]:
    """What is loaded to read settings and to begin a stage: what it says of a stage stands in data/resolved."""
    program = (
        "import json, sys, stages.runner, sslpipe.settings as s; s.load().flat(); "
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('sslpipe', 'stages')]))"
    )
    loaded = json.loads(everything.run("python", "-c", program).stdout.splitlines()[-1])
    return {Path(file).relative_to(everything.folder).as_posix() for file in loaded if file}


@pytest.mark.slow
def test_the_first_run_leaves_what_the_house_says(everything: Project) -> None:
    finished, left = everything, files(everything)
    expected = {
        "data/source.json", "data/shards/manifest.json", "data/shards/train/train-000000.tar",
        "data/shards/test/test-000000.tar", "data/views/recipe.json", "plots/views/sheet.png",
        "plots/views/parameters.csv", "metrics/views.json", "plots/pretrain/monitor.csv",
        "models/encoder.safetensors", "models/encoder.json", "metrics/pretrain.json", "plots/pretrain/curves.csv",
        "data/features/train.safetensors", "data/features/test.safetensors", "metrics/knn.json",
        "plots/knn/confusion.csv", "plots/knn/neighbours.json", "metrics/linear.json",
        "plots/linear/label_efficiency.csv", "plots/linear/confusion.csv", "metrics/finetune.json",
        "metrics/diagnostics.json", "plots/diagnostics/eigenspectrum.csv", "metrics/robustness.json",
        "plots/robustness/invariance.csv", "plots/robustness/corruptions.csv", "report/index.html",
    }  # fmt: skip
    assert expected <= left
    assert {f"runs/{stage}.json" for stage in STAGES if stage != "report"} | {"report/run.json"} <= left
    for stage in ("knn", "linear", "finetune", "robustness"):
        metrics = finished.json(f"metrics/{stage}.json")[stage]
        assert 0 <= metrics["random_init_top1"] <= 1
        assert 0 < metrics["top1"] <= 1
        protocol = finished.result(stage)["protocol"]
        assert protocol["chosen_on"]
        card = protocol["digests"]
        assert card["data"] == finished.json("data/shards/manifest.json")["digest"]
        assert card["encoder"] == finished.json("models/encoder.json")["weights_sha256"]
    assert not list(
        (finished.folder / ".sslpipe" / "pretrain").glob("*/*.safetensors")
    )  # checkpoints are gone


@pytest.mark.slow
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "source"])
def test_a_stage_imports_nothing_outside_the_rooms_it_names(
    everything: Project, joints: set[str], stage: str
) -> None:
    named = pipeline.stages(everything.folder / "dvc.yaml")[stage].code
    rooms = [room.replace(pipeline.METHOD, "simclr") for room in named]
    imported = everything.json(f".trace/{stage}.json")

    def within(file: str, places: Iterable[str]) -> bool:
        return any(file == place or file.startswith(f"{place}/") for place in places)

    declarations = {file for file in imported if re.fullmatch(r"sslpipe/(.*/)?(config|__init__)\.py", file)}
    outside = {file for file in imported if not within(file, (*rooms, *pipeline.ONLOOKERS))}
    assert outside - joints - declarations == set()
    idle = [room for room in rooms if not any(within(file, [room]) for file in imported)]
    assert idle == [], "named, and nothing of it imported"


@pytest.mark.slow
def test_the_resolved_file_of_a_stage_has_its_settings_and_code(everything: Project) -> None:
    found = everything.json("data/resolved/knn.json")
    assert found["settings"]["knn"]["k"] == 5
    assert found["settings"]["knn"]["temperature"] == 0.07  # left out of params.yaml
    assert "sslpipe/evals/knn" in found["code"]
    assert (
        everything.json("runs/linear.json")["key"] == everything.json("runs/online.json")["key"]
    )  # one experiment


def test_a_second_run_runs_only_source(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    record = project.bytes("runs/source.json")
    assert ran(project.repro()) == ["source"]
    assert project.bytes("runs/source.json") == record
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_sections_and_keys_that_are_left_out_have_their_defaults(finished: Project, tmp_path: Path) -> None:
    """DVC is not asked for them: data/resolved has every value that a stage reads, whatever params.yaml has."""
    project = finished.clone(tmp_path / "project")
    params = yaml.safe_load(project.bytes("params.yaml"))
    kept = {name: params[name] for name in ("data", "shard", "tracking")}
    kept["pretrain"] = {"epochs": 1, "device": "cpu"}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(kept))
    assert ran(project.repro("source")) == ["source"]
    settings = load(project.folder / "params.yaml")
    for stage, key in (("pretrain", "views.centre_crop"), ("pretrain", "loader"), ("retrieval", "retrieval")):
        assert project.json(f"data/resolved/{stage}.json")["settings"][key] == settings.part(key)
    assert "missing" not in project.run("dvc", "repro", "--dry").stdout


def test_changing_a_setting_of_another_method_runs_nothing(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    project.set(methods__byol__momentum=0.5)
    with (project.folder / "sslpipe/methods/byol.py").open("a") as file:
        file.write("\n# a remark\n")
    assert ran(project.repro()) == ["source"]


@pytest.mark.slow
def test_changing_a_recipe_of_another_method_trains_nothing(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    with (project.folder / "sslpipe/recipes/byol.yaml").open("a") as file:
        file.write("\n# a remark\n")
    assert ran(project.repro("pretrain")) == ["source", "views"]


@pytest.mark.slow
def test_evaluations_switched_off_say_so_and_the_dag_stays(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    off = ["knn", "finetune"]
    project.set(**{f"{stage}__enabled": False for stage in off})
    said = project.repro()
    assert ran(said) == ["source", *off, "report"]
    assert "WARNING" not in said  # DVC's, of empty folders
    for stage in off:
        assert (
            project.bytes(f"plots/{stage}/skipped.txt")
            == f"{stage}.enabled is false in params.yaml\n".encode()
        )
        assert project.json(f"metrics/{stage}.json") == {}
        assert project.result(stage)["skipped"] == f"{stage}.enabled is false in params.yaml"
    assert "knn.enabled is false" in project.bytes("report/index.html").decode()


@pytest.mark.slow
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
        assert "no labels" in project.result(stage)["skipped"]
    for stage, number in (("diagnostics", "rankme"), ("robustness", "invariance")):
        assert project.result(stage)[number]
    assert project.json("metrics/shard.json")["shard"]["rejects"] == 1
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
    assert project.json("metrics/shard.json")["shard"]["train"] == 89


def test_an_exported_encoder_is_of_use_elsewhere(finished: Project) -> None:
    import torch
    from PIL import Image

    import sslpipe
    from sslpipe.data import open_split
    from sslpipe.evals.base.features import Features

    encoder = sslpipe.load_encoder(finished.folder / "models/encoder.safetensors")
    keys = open_split(finished.folder / "data/shards", "test").keys
    files = [finished.folder / "data/raw/digits" / key for key in keys]
    with torch.inference_mode():
        assert encoder(encoder.preprocess([Image.open(files[0]), files[1]])).shape == (2, encoder.dim)
        features = encoder(encoder.preprocess(files))
    stored = Features.load(finished.folder / "data/features/test.safetensors")
    assert encoder.preprocess.resolution == 16
    torch.testing.assert_close(features, stored.features)


def test_dvc_shows_metrics_params_and_plots(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    shown = project.run("dvc", "metrics", "show").stdout
    assert "top1" in shown
    project.set(knn__k=1)
    project.repro("knn")
    difference = project.run("dvc", "metrics", "diff").stdout
    assert re.search(r"knn\.(random_init_|raw_pixel_)?top1 ", difference)
    assert "protocol" not in difference
    assert "knn.k" in project.run("dvc", "params", "diff").stdout
    project.run("dvc", "plots", "show", "-o", "shown")
    page = (project.folder / "shown/index.html").read_text()
    for title in ("Training loss", "Confusion", "Label efficiency"):
        assert title in page


def test_everything_committed_leaves_the_tree_clean(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    commit(project)
    assert project.run("git", "status", "--porcelain").stdout == ""
    tracked = project.run("git", "ls-files").stdout.splitlines()
    assert not [name for name in tracked if name.startswith(("metrics", "models", "plots", "runs", "report"))]
    assert "dvc.lock" in tracked
