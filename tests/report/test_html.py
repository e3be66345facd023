from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import CLASSES, PARAMS, Page, evaluated, numbers_of, write
from safetensors.numpy import load_file, save_file

from sslpipe.console.errors import UserError
from sslpipe.data.loader import open_split
from sslpipe.report import Config
from sslpipe.report.page import build, found_sections
from sslpipe.report.rendering import environment
from sslpipe.report.words import duration

ALL = [
    "results",
    "labels",
    "map",
    "neighbours",
    "confusion",
    "views",
    "training",
    "pictures",
    "data",
    "times",
    "provenance",
]


def page(directory: Path, config: Config | None = None) -> Page:
    return Page(build(directory, PARAMS, config))


def test_retrieval_stands_with_the_neighbours(finished: Path) -> None:
    words = page(finished).text
    assert "Retrieval by 8 test images, % Pretrained Random weights" in words
    assert "Recall@5 98.0 80.0 Mean average precision 71.0 31.0 R-precision 65.0 30.0" in words
    assert "The worst rankings" in words


def test_dense_tasks_stand_beside_random_weights(finished: Path) -> None:
    protocol = {"train_scenes": 256, "test_scenes": 128, "freeze": True}
    segment = {"miou": 0.4, "random_init_miou": 0.25, "knn_miou": 0.3, "random_init_knn_miou": 0.35}
    evaluated(finished, "segment", {**segment, "iou": [0.9, 0.2, None], "protocol": protocol})
    detect = {"ap50": 0.5, "random_init_ap50": 0.2, "map": 0.3, "random_init_map": 0.1}
    evaluated(finished, "detect", {**detect, "protocol": protocol})
    result = page(finished)
    assert {"segmentation", "detection"} <= set(result.sections)
    for words in (
        "Linear layer 40.0 25.0 +15.0",
        "k-NN of patches 30.0 35.0 −5.0",
        "background 90.0",
        "AP over .5 to .95 30.0 10.0 +20.0",
        "which stays as it is",
    ):
        assert words in result.text


def test_another_set_stands_with_all_baselines(finished: Path) -> None:
    numbers = {"linear_top1": 0.9, "random_init_linear_top1": 0.7, "raw_pixel_linear_top1": 0.6}
    few = {"20": {"top1": 0.5, "random_init_top1": 0.55, "raw_pixel_top1": 0.4}}
    protocol = {"source": "cells & co", "classes": 2, "train_images": 100, "test_images": 40}
    evaluated(finished, "transfer", {**numbers, "few_labels": few, "protocol": protocol})
    result = page(finished)
    assert "transfer" in result.sections
    assert "cells & co : 100 images to learn from, 40 to be tested on, 2 classes" in result.text
    assert "all labels 90.0 70.0 60.0 +20.0" in result.text
    assert "20 labels 50.0 55.0 40.0 −5.0" in result.text


def test_strips_of_patches_are_shown_with_their_names(finished: Path) -> None:
    folder = finished / "plots" / "embed"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 8), (9, 90, 9)).save(folder / "0.png")
    write(
        folder / "strips.json",
        [{"file": "0.png", "title": "Heads & tails"}, {"file": "no.png", "title": "No"}],
    )
    result = page(finished)
    assert "patches" in result.sections
    assert "Heads & tails" in result.text
    write(folder / "strips.json", [{"file": 3}])
    assert "plots/embed/strips.json could not be read" in page(finished).text


def test_scores_without_the_test_images_that_repeat_one_of_train(finished: Path) -> None:
    metrics = numbers_of(finished, "knn")
    others = {"top1": 0.85, "test_images": 6}
    evaluated(finished, "knn", {**metrics, "without_duplicates": others})
    assert "On the 6 that do not: k-NN 85.0 % (−5.0)." in page(finished).text.replace("\u202f", " ")


def test_everything_is_on_the_page(finished: Path) -> None:
    result = page(finished)
    assert result.sections == ALL
    for words in (
        "SimCLR · folder · seed 3",
        "with 5 labels from 40.0 %",
        "raw pixels reaches 50.0 %",
        "12 images, no labels, for 4 epochs, in 1 min 15 s",
        "small_resnet",
        "Skipped: finetune.enabled is false",
        "1 of 8 test images",
        "of the 3 neighbours shown",
        "1 file left out",
        "not an image",
        "Reconstructions",
        "turned ±15°",
        "9.0 s in all",
        "abcdef01",
        "with local changes",
    ):
        assert words in result.text
    assert "Not shown" not in result.text


def test_the_page_needs_no_network_and_is_small(finished: Path) -> None:
    result = page(finished)
    assert result.links
    assert all(link.startswith("data:image/") for link in result.links)
    assert "link" not in result.tags
    assert "iframe" not in result.tags
    outside = re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"data:image/[^\"]*", "", result.source))
    assert outside == []
    assert "default-src 'none'" in result.source
    assert len(result.source) < 1_000_000


def test_images_that_come_twice(finished: Path) -> None:
    path = finished / "data/shards/manifest.json"
    manifest = json.loads(path.read_text())
    assert "No image comes twice." in page(finished).text
    counts = {"train_exact": 2, "train_near": 1, "test_exact": 3, "test_near": 4, "unseen": 0, "listed": []}
    write(path, manifest | {"duplicates": counts})
    result = page(finished)
    assert "7 test images are in the training images, too (4 of them nearly the same)" in result.text
    assert "; 3 images come twice within them." in result.text
    assert "Images that come twice" in result.text
    write(path, manifest | {"duplicates": counts | {"test_exact": 0, "test_near": 0}})
    assert "No test image is trained on; 3 images come twice" in page(finished).text
    write(path, manifest | {"duplicates": None})
    assert "were not looked for" in page(finished).text


def test_names_from_the_data_are_escaped(finished: Path) -> None:
    result = page(finished)
    assert CLASSES[0] in result.text
    assert "<i>ant" not in result.source


def test_built_twice_is_the_same_bytes(finished: Path) -> None:
    first = build(finished, PARAMS).read_bytes()
    assert build(finished, PARAMS).read_bytes() == first


PARTS = {
    "metrics": set(),
    "data/shards/manifest.json": {"neighbours", "data"},
    "data/views/recipe.json": set(),
    "data/features": {"map"},
    "data": {"map", "neighbours", "data"},
    "plots/pretrain/curves.csv": {"training"},
    "plots": {"neighbours", "confusion", "training", "pictures"},
    "models": set(),
    "runs": {"times"},
    "runs/linear.json metrics/linear.json": {"labels"},
    "runs metrics": {"results", "labels", "times"},
}


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_leaves_out_its_sections_only(finished: Path, part: str) -> None:
    for path in part.split():
        gone = finished / path
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink()
    result = page(finished)
    assert result.sections == [name for name in ALL if name not in PARTS[part]]
    assert "Not shown" not in result.text


def test_an_empty_folder(project: Path) -> None:
    result = Page(build(project, {}))
    assert result.sections == []
    assert "Nothing to report yet." in result.text


@pytest.mark.parametrize(
    "name",
    [
        "metrics/pretrain.json",
        "runs/knn.json",
        "data/views/recipe.json",
        "models/encoder.json",
        "plots/views/sheet.png",
        "plots/knn/neighbours.json",
        "plots/knn/confusion.csv",
        "data/features/test.safetensors",
        "plots/pretrain/curves.csv",
        "plots/pretrain/reconstructions.png",
    ],
)
def test_a_broken_file_is_named_and_the_rest_is_shown(finished: Path, name: str) -> None:
    (finished / name).write_bytes(b"step,loss\n1,x\n")
    result = page(finished)
    assert "Not shown" in result.text
    assert f"{name} could not be read" in result.text
    assert {"results", "data"} <= set(result.sections)


def test_damaged_shards_are_named(finished: Path) -> None:
    (finished / "data/shards/test/test-000000.tar").write_bytes(b"")
    result = page(finished)
    assert "images of the test split could not be read" in result.text
    assert "map" in result.sections
    assert "neighbours" not in result.sections


def test_images_without_labels(finished: Path) -> None:
    manifest = json.loads((finished / "data/shards/manifest.json").read_text())
    manifest["classes"] = None
    for split in manifest["splits"].values():
        split.update(labelled=False, class_counts=None)
    write(finished / "data/shards/manifest.json", manifest)
    tensors = load_file(finished / "data/features/test.safetensors")
    save_file(tensors | {"label": np.full(8, -1)}, finished / "data/features/test.safetensors")
    for stage in ("knn", "linear", "finetune"):
        evaluated(finished, stage, {"skipped": "the images have no labels"})
    shutil.rmtree(finished / "plots/knn")
    result = page(finished)
    assert "SimCLR pretraining ran; its evaluations were skipped." in result.text
    assert result.text.count("the images have no labels") == 3
    assert "map" in result.sections
    assert "labels" not in result.sections


def test_a_collapsed_encoder_is_said(finished: Path) -> None:
    tensors = load_file(finished / "data/features/test.safetensors")
    save_file(
        tensors | {"features": np.ones((8, 5), np.float32)}, finished / "data/features/test.safetensors"
    )
    assert "the encoder has collapsed" in page(finished).text


def test_a_loss_that_is_not_finite_draws_what_is(finished: Path) -> None:
    write(finished / "plots/pretrain/curves.csv", "step,epoch,loss\n0,0.0,inf\n1,0.5,2.0\n2,1.0,nan\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = page(finished)
    assert "training" in result.sections
    assert "inf" not in re.sub(
        r"data:image/[^\"]*", "", result.source.split('id="training"')[1].split("</section>")[0]
    )


def training_of(result: Page) -> str:
    return result.source.split('id="training"')[1].split("</section>")[0]


def test_looks_between_epochs_are_drawn_and_a_collapse_is_said(finished: Path) -> None:
    shown = training_of(page(finished))
    assert "What the features say" in shown
    for caption in ("knn top1<span>0.9<", "rankme<span>13.5<", "feature std<span>0.3<"):
        assert caption in shown
    assert "teacher gap" not in shown  # nothing but blanks
    assert "collapsed" not in shown
    pretrain = json.loads((finished / "metrics/pretrain.json").read_text())
    write(finished / "metrics/pretrain.json", {"pretrain": pretrain["pretrain"] | {"collapsed": 1.0}})
    assert "the features had collapsed" in training_of(page(finished))


@pytest.mark.parametrize("looks", ["", "step,epoch,rankme\n", "step,epoch,rankme\n0,0,5\n"])
def test_without_looks_the_loss_is_shown_alone(finished: Path, looks: str) -> None:
    write(finished / "plots/pretrain/monitor.csv", looks)
    result = page(finished)
    assert "training" in result.sections
    assert "What the features say" not in result.text
    (finished / "plots/pretrain/monitor.csv").unlink()
    assert "Not shown" not in page(finished).text


def test_neighbours_of_another_class_are_marked(finished: Path) -> None:
    test, train = (open_split(finished / "data/shards", split).labels for split in ("test", "train"))
    agree = [bool(train[place] == test[0]) for place in (0, 1, 7)]
    result = page(finished)
    assert f"{sum(agree)} of the 3 neighbours shown" in result.text
    figures = result.source.split('class="found"')[1].split("</div>")[0].split("</figure>")[:3]
    assert ['class="wrong"' not in figure for figure in figures] == agree


def test_what_is_shown_can_be_chosen(finished: Path) -> None:
    result = page(finished, Config(map_points=0, queries=0))
    assert not {"map", "neighbours"} & set(result.sections)
    assert " of the 2 neighbours shown" in page(finished, Config(neighbours=2)).text
    assert page(finished, Config(map_points=5)).source.count("data-n=") == 3 * 5


def test_many_classes_are_listed_instead_of_drawn(finished: Path) -> None:
    rows = "".join(f"class {n},class {(n + (n == 7)) % 40}\n" for n in range(40))
    write(finished / "plots/knn/confusion.csv", "actual,predicted\n" + rows)
    section = page(finished).source.split('id="confusion"')[1].split("</section>")[0]
    assert "<svg" not in section
    assert "<bdi>class 7</bdi></b> taken for <b><bdi>class 8</bdi>" in section


def test_a_page_that_cannot_be_written_is_one_clear_sentence(finished: Path) -> None:
    (finished / "report").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"report/index\.html"):
        build(finished, PARAMS)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.7, "1 h 00 min"), (93784, "26 h 03 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds).replace("\u202f", " ") == words


def test_each_section_has_a_place_of_its_own_and_a_template() -> None:
    sections = found_sections()
    orders = [module.ORDER for _, module in sections]
    assert orders == sorted(set(orders))
    templates = environment()
    for name, _ in sections:
        assert templates.get_template(f"{name}.html").blocks.keys() >= {"title", "note", "body"}
