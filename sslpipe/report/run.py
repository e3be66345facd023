"""What a run left behind, read from its files: whatever is missing is None or empty, never an error."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sslpipe.report.results import is_number
from sslpipe.tracking.energy import METRIC

if TYPE_CHECKING:
    from sslpipe.report.pictures import Thumbnails

T = TypeVar("T")

_STAGES = (
    "source", "shard", "views", "pretrain", "embed", "knn", "retrieval", "linear", "online", "attentive",
    "finetune", "diagnostics", "robustness", "segment", "detect", "transfer",
)  # fmt: skip
_FEATURES = {"encoder": "features", "random_init": "random_init_features", "raw_pixel": "raw_pixel_features"}


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Accuracy of one series at one number of labels, as fractions."""

    labels: int
    series: str
    top1: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """One test image (its place in the split) and its nearest training images, nearest first."""

    query: int
    neighbours: list[int]
    similarity: list[float]


@dataclass(kw_only=True)
class Run:
    """All that the report shows but pictures of images, which `thumbnails` reads when asked."""

    directory: Path
    params: Mapping[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)  # runs/*.json in the pipeline's order
    curves: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # column -> [rows], NaN where empty or not finite
    watched: dict[str, np.ndarray] = field(default_factory=dict)  # the same of looks between epochs
    efficiency: list[Efficiency] = field(default_factory=list)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)  # (actual, predicted) -> images
    neighbours: list[Neighbours] = field(default_factory=list)
    spectra: dict[str, np.ndarray] = field(default_factory=dict)  # by series, shares of the variance, [D]
    worst: list[Neighbours] = field(default_factory=list)  # the queries whose rankings are worst
    features: dict[str, np.ndarray] = field(default_factory=dict)  # by series, test split, [N, D]
    labels: np.ndarray | None = None  # int64 [N], -1 for none
    index: np.ndarray | None = None  # int64 [N], place in the test split
    problems: list[str] = field(default_factory=list)  # files that are there and could not be read

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their labels; empty without labels."""
        return [str(name) for name in self.manifest.get("classes") or ()]

    @functools.cached_property
    def thumbnails(self) -> Thumbnails:
        """The images themselves; each split is opened once."""
        from sslpipe.report.pictures import Thumbnails

        return Thumbnails(self.directory / "data" / "shards")

    def count(self, split: str) -> int | None:
        """Images in a split, if the manifest says."""
        value = (self.manifest.get("splits") or {}).get(split, {}).get("count")
        return value if isinstance(value, int) else None

    def stage(self, name: str) -> dict[str, Any]:
        """A stage's record, empty where it left none."""
        return next((stage for stage in self.stages if stage["stage"] == name), {})

    def class_name(self, label: int) -> str | None:
        """A label's name, its number where names are not known, None for no label."""
        if label < 0:
            return None
        return self.classes[label] if label < len(self.classes) else str(label)


def read(directory: str | Path, params: Mapping[str, Any]) -> Run:
    """Read a run directory.

    Args:
        directory: where `data/`, `metrics/`, `plots/`, `models/` and `runs/` are.
        params: resolved settings, flat: {"pretrain.method": "simclr", ...}.
    """
    root = Path(directory)
    run = Run(directory=root, params=params)

    def attempt(path: str, parse: Callable[[Path], T], default: T) -> T:
        if not (root / path).is_file():
            return default
        try:
            return parse(root / path)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            what = (
                f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
            )
            run.problems.append(f"{path} could not be read ({what})")
            return default

    run.manifest = attempt("data/shards/manifest.json", _json, {})
    run.recipe = attempt("data/views/recipe.json", _json, {})
    run.encoder = attempt("models/encoder.json", _json, {})
    for path in sorted((root / "metrics").glob("*.json")):
        run.metrics[path.stem] = attempt(f"metrics/{path.name}", _json, {})
    found: list[dict[str, Any]] = [
        attempt(f"runs/{path.name}", _json, {}) for path in sorted((root / "runs").glob("*.json"))
    ]
    run.stages = sorted(
        (stage for stage in found if stage.get("stage", "report") != "report"), key=_pipeline_order
    )
    run.curves = attempt("plots/pretrain/curves.csv", _curves, {})
    run.watched = attempt("plots/pretrain/watch.csv", _curves, {})
    run.efficiency = attempt("plots/linear/label_efficiency.csv", _efficiency, [])
    run.confusion = attempt("plots/knn/confusion.csv", _confusion, Counter())
    run.spectra = attempt("plots/diagnostics/eigenspectrum.csv", _spectra, {})
    run.neighbours = attempt("plots/knn/neighbours.json", _neighbours, [])
    run.worst = attempt("plots/retrieval/worst.json", _neighbours, [])
    tensors: dict[str, np.ndarray] = attempt("data/features/test.safetensors", _tensors, {})
    run.features = {series: tensors[key] for series, key in _FEATURES.items() if key in tensors}
    run.labels, run.index = tensors.get("label"), tensors.get("index")
    return run


def seconds(stage: Mapping[str, Any]) -> float | None:
    """How long a stage took, from its record."""
    started, finished = stage.get("started"), stage.get("finished")
    if not (is_number(started) and is_number(finished)):
        return None
    return max(0.0, (finished - started) / 1000)


def energy(stage: Mapping[str, Any]) -> float | None:
    """Watt-hours that a stage took, from its record; None where nothing counted them."""
    found = [row[1] for row in stage.get("metrics") or () if row[0] == METRIC and is_number(row[1])]
    return found[-1] if found else None


def _pipeline_order(stage: Mapping[str, Any]) -> tuple[int, float]:
    name = stage["stage"]
    known = _STAGES.index(name) if name in _STAGES else len(_STAGES)
    return known, float(stage.get("started") or 0)


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _curves(path: Path) -> dict[str, np.ndarray]:
    rows = _table(path)
    names = [name for name in (rows[0] if rows else {}) if name]
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _efficiency(path: Path) -> list[Efficiency]:
    return [
        Efficiency(
            labels=int(row["labels"]),
            series=row["series"],
            top1=float(row["top1"]),
            std=float(row["std"]) if row.get("std") else None,
        )
        for row in _table(path)
    ]


def _confusion(path: Path) -> Counter[tuple[str, str]]:
    return Counter((row["actual"], row["predicted"]) for row in _table(path))


def _neighbours(path: Path) -> list[Neighbours]:
    return [
        Neighbours(
            query=int(entry["query"]),
            neighbours=[int(place) for place in entry["neighbours"]],
            similarity=[float(value) for value in entry["similarity"]],
        )
        for entry in json.loads(path.read_text())
    ]


def _spectra(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, list[float]] = {}
    for row in _table(path):
        found.setdefault(row["series"], []).append(float(row["share"]))
    return {series: np.array(shares) for series, shares in found.items()}


def _tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _number(text: str | None) -> float:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else math.nan
