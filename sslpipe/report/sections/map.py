"""Test images laid out in the plane by their features, beside the same for the baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sslpipe.report import plots
from sslpipe.report.config import Config
from sslpipe.report.embedding import align, layouts
from sslpipe.report.pictures import data_uri, sprite
from sslpipe.report.run import Run
from sslpipe.report.series import PREFIX, SERIES

ORDER = 30
# Ten colours told apart on white and on black.
_PALETTE = (
    "#4269d0", "#e2a90c", "#ff725c", "#55b9a4", "#3ca951", "#ff8ab7", "#a463f2", "#83aef3", "#9c6b4e", "#8f949e",
)  # fmt: skip


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where no features are kept or no map is wanted."""
    tensors: dict[str, np.ndarray] = run.load("data/features/test.safetensors", _tensors, {})
    features = {
        series: tensors[f"{prefix}features"]
        for series, prefix in PREFIX.items()
        if f"{prefix}features" in tensors
    }
    if not config.map_points or not features:
        return None
    count = len(next(iter(features.values())))
    seed = int(run.params.get("seed") or 0)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[: config.map_points])
    labels = tensors["label"][chosen] if "label" in tensors else np.full(len(chosen), -1)
    places = tensors["index"][chosen] if "index" in tensors else chosen
    placed = layouts({series: x[chosen] for series, x in features.items() if len(x) == count}, seed=seed)
    first = placed.get("encoder")
    if first is None:
        return {"maps": None} if "encoder" in placed and count >= 5 else None
    names = {int(label): run.class_name(int(label)) or "" for label in np.unique(labels) if label >= 0}
    brief = max(map(len, names.values()), default=0) <= 3
    maps = {
        series: _map(series, place if series == "encoder" else align(place, first), labels, names, brief)
        for series, place in placed.items()
        if place is not None
    }
    return {
        "maps": maps,
        "count": len(chosen),
        "names": names,
        "listed": bool(names) and not brief and len(names) <= 40,
        "colours": _colours(names),
        "images": _images(run, places, labels),
    }


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _map(series: str, place: np.ndarray, labels: np.ndarray, names: dict[int, str], brief: bool) -> Any:
    main = series == "encoder"
    return plots.scatter(
        place,
        labels,
        names,
        size=540 if main else 260,
        radius=3.2 if main else 1.9,
        text=(17 if brief else 14) if main else (12 if brief else 0),
        title=f"Map of test images: {SERIES[series].lower()}",
    )


def _images(run: Run, places: np.ndarray, labels: np.ndarray) -> dict[str, Any] | None:
    """The images behind the map's points on one sheet, for the script."""
    images = run.images("test", places.tolist(), 40 if len(places) <= 1500 else 28)
    if images is None:
        return None
    side = max(max(image.size) for image in images[0])
    sheet, columns = sprite(images[0], side)
    names = [run.class_name(int(label)) or "" for label in labels]
    return {
        "sprite": data_uri(sheet),
        "columns": columns,
        "side": side,
        "names": json.dumps(names, ensure_ascii=False),
    }


def _colours(names: dict[int, str]) -> dict[int, str]:
    """A colour for each label; beyond ten, hues a golden angle apart."""
    if len(names) <= len(_PALETTE):
        return dict(zip(sorted(names), _PALETTE, strict=False))
    return {label: f"oklch(.68 .15 {n * 137.508 % 360:.0f})" for n, label in enumerate(sorted(names))}
