"""Names from data, files and settings are shown as they are, and are never taken for parts of the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import PARAMS, Page, evaluated, numbers_of, write, write_csv
from safetensors.numpy import load_file, save_file

from sslpipe.report.page import build
from sslpipe.report.plots import confusion
from sslpipe.report.run import Run
from sslpipe.report.words import isolated

NAMES = (
    '</b></style><script>alert("1")</script>',
    "it's <i onclick='x'>&amp; \"co\" & {{ 7 * 7 }} {% if %}",
    '" onload="alert(1)" x="',
    "👩‍🔬 🐜 <🐝> é é",
    'שלום <עולם> & "עוד"',
    "مرحبا <بالعالم> & 'خير'",
)


def named(folder: Path, names: Sequence[str]) -> Page:
    """The page of a run with these names wherever names come from outside."""
    every = " ".join(names)
    path = folder / "data/shards/manifest.json"
    manifest = json.loads(path.read_text()) | {"classes": names, "notes": names}
    manifest["source"]["name"] = every
    manifest["rejects"]["listed"] = [{"key": name, "reason": name} for name in names]
    manifest["rejects"]["by_reason"] = dict.fromkeys(names, 1)
    for split in manifest["splits"].values():
        split["class_counts"] += [0] * (len(names) - 2)
    write(path, manifest)
    tensors = load_file(folder / "data/features/test.safetensors")
    labels = np.arange(8) % len(names)
    save_file(tensors | {"label": labels}, folder / "data/features/test.safetensors")
    pairs = [[name, names[0]] for name in names]
    write_csv(folder / "plots/knn/confusion.csv", ["actual", "predicted"], pairs)
    (folder / "plots/embed").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "plots/embed/0.png")
    write(folder / "plots/embed/strips.json", [{"file": "0.png", "title": name} for name in names])
    for name in names[:3]:
        Image.new("RGB", (8, 8)).save(folder / "plots/pretrain" / f"{name.replace('/', '|')}.png")
    encoder = json.loads((folder / "models/encoder.json").read_text())
    write(folder / "models/encoder.json", encoder | {"name": every, "info": {"title": every}})
    evaluated(folder, "knn", numbers_of(folder, "knn") | {"protocol": {name: name for name in names}})
    evaluated(folder, "finetune", {"skipped": every})
    scores = {"linear_top1": 0.5, "random_init_linear_top1": 0.4}
    evaluated(folder, "transfer", {**scores, "protocol": {"source": every, "classes": 2}})
    segment = {"miou": 0.4, "random_init_miou": 0.3, "iou": [0.5] * (len(names) + 1)}
    evaluated(folder, "segment", {**segment, "protocol": {"class_names": names}})
    invariance = {"invariance": dict.fromkeys(names, 0.5), "in_recipe": names, "without_effect": [every]}
    evaluated(folder, "robustness", invariance)
    views = [{"name": name, "size": 12, "scale": [0.3, 1.0]} for name in names]
    write(folder / "data/views/recipe.json", {"views": views})
    write_csv(
        folder / "plots/pretrain/monitor.csv", ["epoch", *names], [[n, *[n] * len(names)] for n in (0, 1)]
    )
    record = json.loads((folder / "runs/pretrain.json").read_text())
    git = {"branch": every, "commit": every, "dirty": True}
    write(folder / "runs/pretrain.json", record | {"environment": {name: name for name in names}, "git": git})
    write(folder / "plots/diagnostics/eigenspectrum.csv", f"series,{every}\nx,y\n")
    settings = {name: name for name in names} | {"data.source": every, "data.root": names}
    return Page(build(folder, {**PARAMS, **settings}))


def test_names_are_shown_as_they_are_and_nothing_is_made_of_them(finished: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(finished, tmp_path / "plain")
    page = named(finished, NAMES)
    nodes, every = [_line(word) for word in page.words], _line(" ".join(NAMES))
    for name in map(_line, NAMES):
        # Confusions, counts, rejects, settings, environment, protocol hold a name and nothing else.
        assert nodes.count(name) >= 12
        assert f"1 × {name}" in page.text
    for words in (
        f"{every} pretraining lifts",
        f"Skipped: {every}",
        f"Nothing to see on these images: {every}.",
        f"{every} with local changes",
        *(name.replace("/", "|").replace("_", " ").capitalize() for name in map(_line, NAMES[:3])),
    ):
        assert words in page.text
    assert {f"class {name}" for name in NAMES[:2]} <= set(page.values["alt"])
    (said,) = page.values["data-names"]
    assert set(json.loads(said)) == set(NAMES)
    # Neither an element nor an attribute is there that is not there for harmless names of the same lengths.
    harmless = named(plain, [letter * len(name) for letter, name in zip("abcdef", NAMES, strict=True)])
    assert page.shape == harmless.shape


def _line(text: str) -> str:
    return " ".join(text.split())


def test_a_name_that_is_no_text_does_not_stop_the_page(finished: Path) -> None:
    page = Page(build(finished, {**PARAMS, "data.root": b"caf\xe9".decode("utf-8", "surrogateescape")}))
    assert "data.root caf?" in page.text


def test_a_name_written_from_right_to_left_does_not_turn_the_sentence_around_it() -> None:
    assert isolated("ant") == "ant"
    assert isolated("שלום") == "\u2068שלום\u2069"
    svg = confusion(np.array([[1, 1], [0, 1]]), ["שלום", "ant"], width=300, title="t")
    assert "\u2068שלום\u2069 taken for ant: 1 of 2" in svg


@pytest.mark.parametrize(
    ("encoder", "shown"),
    [
        ({"info": {"title": "MoCo v3"}}, "MoCo v3"),
        ({"info": {}}, "mocov3"),
        ({"info": 3}, "mocov3"),
        ({}, "mocov3"),
    ],
)
def test_a_method_is_called_what_its_encoder_says(encoder: dict[str, object], shown: str) -> None:
    run = Run(directory=Path("."), params={"pretrain.method": "mocov3"}, encoder=encoder)
    assert run.method == shown
