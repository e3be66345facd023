"""What stage `views` shows of a recipe: a contact sheet, what was drawn for it, and how fast views are made."""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sslpipe.data.batch import Batch
from sslpipe.data.loader import Reader
from sslpipe.views.engine import ViewEngine
from sslpipe.views.operations import ADJUSTMENTS
from sslpipe.views.recipe import Jitter, Recipe
from sslpipe.views.table import Table
from sslpipe.views.view import View

ROUNDS = 5


def shown(recipe: Recipe, reader: Reader, images: int, seed: int) -> Iterator[tuple[str, str | bytes]]:
    """Files that show a recipe on images spread over a split: (sheet.png, …), (parameters.csv, …)."""
    from sslpipe.recipes.sheet import sheet

    indices = np.unique(np.linspace(0, len(reader) - 1, min(images, len(reader))).astype(np.int64))
    batch, engine = reader.gather(indices), ViewEngine(recipe, seed=seed)
    views = engine(batch, epoch=0)
    buffer = io.BytesIO()
    sheet(batch, views).save(buffer, "PNG", optimize=True)
    yield "sheet.png", buffer.getvalue()
    yield "parameters.csv", parameters(engine, batch, views, [reader.keys[index] for index in indices])


def parameters(engine: ViewEngine, batch: Batch, views: Sequence[View], keys: Sequence[str]) -> str:
    """What was drawn for each image and each of its views in epoch 0, as CSV.

    The columns: the image's key and place in the split; the view's name and its number among those of that name; the
    crop in canvas pixels; degrees counter-clockwise; flips and quarter turns; the colour adjustments in the order in
    which they are applied (empty: none); grey, sigma of the blur in pixels (0: none), solarized; patches hidden,
    and for multi-block masks the size of each target.

    `views` is what the engine made of the batch, `keys` the names of its images.
    """
    index, size = batch.index.numpy(), batch.size.numpy()
    columns: list[list[dict[str, Any]]] = []  # a list a view, a row an image
    for spec in engine.recipe.views:
        for number, table in enumerate(engine.tables(spec, index, size, epoch=0), start=1):
            view = views[len(columns)]
            drawn = zip(_drawn(table, spec.jitter), _hidden(view), strict=True)
            columns.append([{"view": spec.name, "number": number} | row | mask for row, mask in drawn])
    images = [{"image": key, "place": place} for key, place in zip(keys, index.tolist(), strict=True)]
    rows = [image | column[n] for n, image in enumerate(images) for column in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _drawn(table: Table, jitter: Jitter | None) -> Iterator[dict[str, Any]]:
    others = [name for name in table.drawn.dtype.names or () if name not in ("angle", "factors", "order")]
    for row in range(len(table)):
        box = zip(("top", "left", "height", "width"), table.box[row].tolist(), strict=True)
        drawn: dict[str, Any] = dict(box) | {"angle": f"{table.angle[row]:.2f}"}
        for name in others:
            value = table.drawn[name][row].item()
            drawn[name] = f"{value:.3f}" if isinstance(value, float) else int(value)
        yield drawn | {"jitter": _adjustments(table, row, jitter)}


def _adjustments(table: Table, row: int, jitter: Jitter | None) -> str:
    """Those that a view is given, in their order; one of strength 0 is left out by the renderers too."""
    factors = dict(zip(ADJUSTMENTS, table.factors[row].tolist(), strict=True))
    applied = [ADJUSTMENTS[kind] for kind in table.order[row]] if table.jitter[row] else []
    return " ".join(f"{name}={factors[name]:.3f}" for name in applied if getattr(jitter, name))


def _hidden(view: View) -> Iterator[dict[str, Any]]:
    for row in range(len(view.index)):
        counts = [] if view.masks is None else view.masks[row].sum(dim=-1).reshape(-1).tolist()
        yield {"hidden": counts[0] if counts else "", "targets": " ".join(map(str, counts[1:]))}


def measure(engine: ViewEngine, batch: Batch) -> dict[str, Any]:
    """Views a second of one batch held in memory: the median of a few rounds after a warm-up."""
    engine(batch, epoch=0)
    rounds = []
    for epoch in range(ROUNDS):
        _wait(engine)
        start = time.perf_counter()
        engine(batch, epoch)
        _wait(engine)
        rounds.append(time.perf_counter() - start)
    views = sum(spec.count for spec in engine.recipe.views)
    seconds = statistics.median(rounds)
    return {
        "views_per_second": round(views * len(batch) / seconds),
        "milliseconds_per_batch": round(1000 * seconds, 2),
        "views_per_image": views,
        "renderer": engine.renderer,
    }


def _wait(engine: ViewEngine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
