"""Made-up runs for the tests of the report."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from sslpipe.sharding import shard as sharding
from sslpipe.sharding import sources

VOID = {"meta", "img", "br", "hr", "input", "link"}
CLASSES = ('<i>ant</i> & "co"', "bee")
PARAMS = {"seed": 3, "data.source": "folder", "pretrain.method": "simclr", "pretrain.backbone": "auto"}
KNN = {"top1": 0.9, "random_init_top1": 0.6, "raw_pixel_top1": 0.8, "protocol": {"k": 20}}
LINEAR = {
    "top1": 0.95,
    "random_init_top1": 0.7,
    "raw_pixel_top1": 0.75,
    "few_labels": {
        "5": {"top1": 0.85, "top1_std": 0.02, "random_init_top1": 0.4, "raw_pixel_top1": 0.5},
        "10": {"top1": 0.9, "random_init_top1": 0.5, "raw_pixel_top1": 0.6},
    },
    "protocol": {"chosen_on": "a part of train"},
}
RETRIEVAL = {
    **{"top1": 0.9, "recall_1": 0.9, "recall_5": 0.98, "map": 0.71, "r_precision": 0.65},
    **{
        "random_init_recall_1": 0.6,
        "random_init_recall_5": 0.8,
        "random_init_map": 0.31,
        "random_init_r_precision": 0.3,
    },
    "protocol": {"ks": [1, 5], "queries": 8},
}
FINETUNE = {"skipped": "finetune.enabled is false"}


class Page(HTMLParser):
    """What a page holds; raises where a tag is not closed in its place."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.sections: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.shape: list[tuple[str, ...]] = []  # each tag with the names of its attributes
        self.values: dict[str, list[str]] = {}  # by name, those of attributes
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._note(tag, attrs)
        if tag == "section":
            self.sections.append(named["id"] or "")
        self.links += [
            str(named[name]) for name in ("src", "href", "srcset", "action", "data") if name in named
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.shape.append((tag, *(name for name, _ in attrs)))
        for name, value in attrs:
            self.values.setdefault(name, []).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def evaluated(folder: Path, name: str, numbers: dict[str, Any]) -> None:
    """Write what an evaluation leaves: its record, and its metrics.

    Args:
        folder: of the run.
        name: of the evaluation.
        numbers: all of them, with `protocol`, and `skipped` where it was.
    """
    metrics = {key: value for key, value in numbers.items() if key not in ("protocol", "skipped")}
    result = {"metrics": metrics, "protocol": numbers.get("protocol", {}), "skipped": numbers.get("skipped")}
    path = folder / "runs" / f"{name}.json"
    record = json.loads(path.read_text()) if path.is_file() else {"stage": name}
    write(path, record | {"result": result})
    write(folder / "metrics" / f"{name}.json", {name: metrics})


def numbers_of(folder: Path, name: str) -> dict[str, Any]:
    """What `evaluated` was given."""
    result = json.loads((folder / "runs" / f"{name}.json").read_text())["result"]
    return {**result["metrics"], "protocol": result["protocol"]}


def make_run(folder: Path) -> None:
    """A tiny run directory with everything in it: 12 training images, 8 test images, two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for n, name in enumerate(("ant", "bee")):
            for k in range(count):
                path = folder / "photos" / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(100 * n, 100 * n + 100, (12, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    (folder / "photos" / "train" / "bee" / "broken.png").write_bytes(b"no picture")
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    sharding.shard(sharding.Config(resolution=12), source, folder / "data/shards", 0)
    manifest = json.loads((folder / "data/shards/manifest.json").read_text())
    write(folder / "data/shards/manifest.json", manifest | {"classes": CLASSES})
    label = np.repeat(np.arange(2), 4)
    features = rng.normal(size=(8, 5)).astype(np.float32) + 3 * label[:, None].astype(np.float32)
    (folder / "data/features").mkdir()
    save_file(
        {
            "features": features,
            "random_init_features": rng.normal(size=(8, 5)).astype(np.float32),
            "raw_pixel_features": rng.normal(size=(8, 9)).astype(np.float32),
            "label": label,
            "index": np.arange(8),
        },
        folder / "data/features/test.safetensors",
    )
    view = {"name": "global", "size": 12, "count": 2, "scale": [0.3, 1.0], "hflip": 0.5, "rotation": 15.0}
    write(folder / "data/views/recipe.json", {"views": [view]})
    encoder = {"name": "small_resnet", "dim": 5, "weights_sha256": "e" * 64, "info": {"title": "SimCLR"}}
    write(folder / "models/encoder.json", encoder)
    pretrain = {"loss": 1.5, "epochs": 4, "steps": 40, "seconds": 75.0, "images_per_second": 1234.5}
    write(folder / "metrics/pretrain.json", {"pretrain": pretrain})
    curve = [[n, n / 10, 3 / (1 + n), 0.1, "" if n == 3 else n] for n in range(40)]
    write_csv(folder / "plots/pretrain/curves.csv", ["step", "epoch", "loss", "lr", "accuracy"], curve)
    looks = [[10 * n, n, 0.5 + n / 10, 9.5 + n, 0.3, ""] for n in (0, 2, 4)]
    names = ["step", "epoch", "knn_top1", "rankme", "feature_std", "teacher_gap"]
    write_csv(folder / "plots/pretrain/monitor.csv", names, looks)
    pairs = [[CLASSES[n // 4], CLASSES[n // 4 if n != 2 else 1]] for n in range(8)]
    write_csv(folder / "plots/knn/confusion.csv", ["actual", "predicted"], pairs)
    neighbours = [{"query": 0, "neighbours": [0, 1, 7], "similarity": [0.99, 0.5, 0.25]}]
    write(folder / "plots/knn/neighbours.json", neighbours)
    worst = [{"query": 5, "neighbours": [2, 11], "similarity": [0.7, 0.6], "average_precision": 0.2}]
    write(folder / "plots/retrieval/worst.json", worst)
    for name in ("plots/views/sheet.png", "plots/pretrain/reconstructions.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / name)
    for n, stage in enumerate(("knn", "pretrain", "shard")):
        start = 1_700_000_000_000 + 10_000 * n
        git = {"commit": "abcdef0123456789", "branch": "main", "dirty": True}
        record = {
            "stage": stage,
            "started": start,
            "finished": start + 1500 * (n + 1),
            "key": "k" * 64,
            "git": git,
        }
        write(folder / f"runs/{stage}.json", record | {"environment": {"python": "3.11.2", "cpus": 2}})
    for name, numbers in (("knn", KNN), ("linear", LINEAR), ("finetune", FINETUNE), ("retrieval", RETRIEVAL)):
        evaluated(folder, name, numbers)


@pytest.fixture
def finished(project: Path) -> Path:
    """A run directory with everything in it."""
    make_run(project)
    return project
