"""Test images laid out in the plane by their features, beside the same for the baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sslpipe.report import plots
from sslpipe.report.embedding import align, layouts
from sslpipe.report.pictures import data_uri, sprite
from sslpipe.report.run import Context, Run
from sslpipe.report.series import PREFIX, SERIES

ORDER = 30
# Ten colours told apart on white and on black.
_PALETTE = (
    "#4269d0", "#e2a90c", "#ff725c", "#55b9a4", "#3ca951", "#ff8ab7", "#a463f2", "#83aef3", "#9c6b4e", "#8f949e",
)  # fmt: skip


def context(run: Run) -> Context:
    """What the template shows; None where no features are kept or no map is wanted."""
    tensors: dict[str, np.ndarray] = run.load("data/features/test.safetensors", _tensors, {})
    names = {series: f"{prefix}features" for series, prefix in PREFIX.items()}
    features = {series: tensors[name] for series, name in names.items() if name in tensors}
    if not run.config.map_points or not features:
        return None
    count = len(next(iter(features.values())))
    seed = int(run.params.get("seed") or 0)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[: run.config.map_points])
    placed = layouts({series: x[chosen] for series, x in features.items() if len(x) == count}, seed=seed)
    first = placed.get("encoder")
    if first is None:
        return {"maps": None} if "encoder" in placed and count >= 5 else None
    labels = tensors["label"][chosen] if "label" in tensors else np.full(len(chosen), -1)
    indices = tensors["index"][chosen] if "index" in tensors else chosen
    classes = {int(label): run.class_name(int(label)) or "" for label in np.unique(labels) if label >= 0}
    brief = max(map(len, classes.values()), default=0) <= 3
    maps = {
        series: _map(series, place if series == "encoder" else align(place, first), labels, classes, brief)
        for series, place in placed.items()
        if place is not None
    }
    return {
        "maps": maps,
        "count": len(chosen),
        "names": classes,
        "listed": bool(classes) and not brief and len(classes) <= 40,
        "colours": _colours(classes),
        "images": _images(run, indices, labels),
    }


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _map(series: str, place: np.ndarray, labels: np.ndarray, names: dict[int, str], brief: bool) -> Markup:
    """The encoder's map is large and names the classes; the baselines' maps are small and name brief ones alone."""
    if series == "encoder":
        size, radius, text = 540, 3.2, 17 if brief else 14
    else:
        size, radius, text = 260, 1.9, 12 if brief else 0
    title = f"Map of test images: {SERIES[series].lower()}"
    return plots.scatter(place, labels, names, size=size, radius=radius, text=text, title=title)


def _images(run: Run, indices: np.ndarray, labels: np.ndarray) -> dict[str, Any] | None:
    """The images behind the map's points on one sheet, for the script."""
    images = run.images("test", indices.tolist(), 40 if len(indices) <= 1500 else 28)
    if images is None:
        return None
    side = max(max(image.size) for image in images[0])
    sheet, columns = sprite(images[0], side)
    names = json.dumps([run.class_name(int(label)) or "" for label in labels], ensure_ascii=False)
    return {"sprite": data_uri(sheet), "columns": columns, "side": side, "names": names}


def _colours(names: dict[int, str]) -> dict[int, str]:
    """A colour for each label; beyond ten, hues a golden angle apart."""
    if len(names) <= len(_PALETTE):
        return dict(zip(sorted(names), _PALETTE, strict=False))
    return {label: f"oklch(.68 .15 {n * 137.508 % 360:.0f})" for n, label in enumerate(sorted(names))}
