"""What a run left behind, read from its files: whatever is missing is None or empty, never an error."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from sslpipe import evals
from sslpipe.console.errors import UserError
from sslpipe.report import pictures, results
from sslpipe.report.config import Config
from sslpipe.report.words import is_number, mapping
from sslpipe.tracking.energy import METRIC

T = TypeVar("T")
Context = dict[str, Any] | None  # what the template of a section shows; None: the section is left out

_FIRST = ("source", "shard", "views", "pretrain", "embed")  # stages before the evaluations


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Accuracy of one series at one number of labels, as fractions."""

    labels: int
    series: str
    top1: float
    std: float | None


@dataclass(kw_only=True)
class Run:
    """What the sections share. What one section alone shows it reads by `load`, `images` and `picture`."""

    directory: Path
    params: Mapping[str, Any]  # resolved settings, flat: {"pretrain.method": "simclr", ...}
    config: Config = field(default_factory=Config)  # how much the report shows
    manifest: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    #: By stage, its numbers; of an evaluation all of them, with `protocol` and `skipped` where they apply.
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)  # runs/*.json in the pipeline's order
    #: By column the numbers of the rows, NaN where empty or not finite.
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    watched: dict[str, np.ndarray] = field(default_factory=dict)  # the same of looks between epochs
    #: Of the linear probe; from its numbers, for a run without the CSV.
    efficiency: list[Efficiency] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # files that are there and could not be read
    _readers: dict[str, Any] = field(default_factory=dict)  # of images, by split

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their labels; empty without labels."""
        return [str(name) for name in self.manifest.get("classes") or ()]

    @property
    def method(self) -> str:
        """The method as its paper writes it, where the encoder says that; else as the setting has it."""
        title = mapping(self.encoder.get("info")).get("title")
        return str(title or self.params.get("pretrain.method") or "")

    def images(self, split: str, indices: list[int], side: int) -> tuple[list[Image.Image], list[int]] | None:
        """Images of a split at most `side` pixels large, and their labels (-1: none).

        None where the shards are missing or cannot be read.
        """
        if not indices or not self.manifest:
            return None
        from sslpipe.data.loader import open_split

        try:
            if split not in self._readers:
                self._readers[split] = open_split(self.directory / "data" / "shards", split, "streaming")
            batch = self._readers[split].gather(np.asarray(indices, dtype=np.int64))
        except (UserError, OSError, IndexError, ValueError) as error:
            problem = f"images of the {split} split could not be read ({error})"
            if problem not in self.problems:
                self.problems.append(problem)
            return None
        canvases = zip(batch.pixels.numpy(), batch.size.tolist(), strict=True)
        images = [pictures.thumbnail(pixels[:height, :width], side) for pixels, (height, width) in canvases]
        return images, batch.label.tolist()

    def picture(self, path: str, said: str) -> pictures.Picture | None:
        """A picture file below the run's directory; None where there is none, or none that can be read."""
        if not (self.directory / path).is_file():
            return None
        try:
            return pictures.picture(self.directory / path, said)
        except (OSError, ValueError, SyntaxError):  # Pillow raises SyntaxError for a broken PNG
            self.problems.append(f"{path} could not be read as a picture")
            return None

    def load(self, path: str, parse: Callable[[Path], T], default: T) -> T:
        """What a file below the run's directory holds; the default where there is none, or none that can be read."""
        if not (self.directory / path).is_file():
            return default
        try:
            return parse(self.directory / path)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            missing = isinstance(error, KeyError)
            what = f"{error} is missing" if missing else str(error) or type(error).__name__
            self.problems.append(f"{path} could not be read ({what})")
            return default

    def count(self, split: str) -> int | None:
        """Images in a split, if the manifest says."""
        value = (self.manifest.get("splits") or {}).get(split, {}).get("count")
        return value if isinstance(value, int) else None

    def stage(self, name: str) -> dict[str, Any]:
        """A stage's record, empty where it left none."""
        return next((stage for stage in self.stages if stage["stage"] == name), {})

    def protocol(self, evaluation: str) -> Mapping[str, Any]:
        """How an evaluation was made; empty where it was not."""
        return mapping(self.metrics.get(evaluation, {}).get("protocol"))

    @property
    def origin(self) -> dict[str, Any]:
        """The record that says which code and machine made the run: that of pretraining, else of the first stage."""
        return self.stage("pretrain") or (self.stages[0] if self.stages else {})

    def class_name(self, label: int) -> str | None:
        """A label's name, its number where names are not known, None for no label."""
        if label < 0:
            return None
        return self.classes[label] if label < len(self.classes) else str(label)


def read(directory: str | Path, params: Mapping[str, Any], config: Config | None = None) -> Run:
    """Read a run directory with `data/`, `metrics/`, `plots/`, `models/` and `runs/`, whose settings are known."""
    root = Path(directory)
    run = Run(directory=root, params=params, config=config or Config())
    run.manifest = run.load("data/shards/manifest.json", _json, {})
    run.recipe = run.load("data/views/recipe.json", _json, {})
    run.encoder = run.load("models/encoder.json", _json, {})
    for path in sorted((root / "metrics").glob("*.json")):
        numbers: dict[str, dict[str, Any]] = run.load(f"metrics/{path.name}", _numbers, {})
        run.metrics |= numbers
    records: dict[str, dict[str, Any]] = {
        path.stem: run.load(f"runs/{path.name}", _json, {}) for path in sorted((root / "runs").glob("*.json"))
    }
    # The metrics of an evaluation are its most important numbers; its record has all.
    run.metrics |= {name: found for name, record in records.items() if (found := results.of_record(record))}
    stages = [record for record in records.values() if record.get("stage", "report") != "report"]
    run.stages = sorted(stages, key=_pipeline_order)
    run.curves = run.load("plots/pretrain/curves.csv", _curves, {})
    run.watched = run.load("plots/pretrain/monitor.csv", _curves, {})
    run.efficiency = run.load("plots/linear/label_efficiency.csv", _efficiency, []) or _told_efficiency(run)
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
    order = (*_FIRST, *evals.declarations())
    known = order.index(stage["stage"]) if stage["stage"] in order else len(order)
    return known, float(stage.get("started") or 0)


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _numbers(path: Path) -> dict[str, dict[str, Any]]:
    return {name: dict(numbers) for name, numbers in _json(path).items() if isinstance(numbers, Mapping)}


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, for `Run.load`."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _curves(path: Path) -> dict[str, np.ndarray]:
    rows = table(path)
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
        for row in table(path)
    ]


def _told_efficiency(run: Run) -> list[Efficiency]:
    return [
        Efficiency(labels=labels, series=series, top1=top1, std=row.std.get(series))
        for row in results.rows(run.metrics)
        if row.stage == "linear" and (labels := row.labels or run.count("train"))
        for series, top1 in row.top1.items()
    ]


def _number(text: str | None) -> float:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else math.nan
