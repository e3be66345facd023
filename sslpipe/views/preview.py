"""What stage `views` shows of a recipe: a contact sheet, and how fast it is made."""

from __future__ import annotations

import io
import statistics
import time
from typing import Any

import numpy as np

from sslpipe.data.loader import Reader
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Recipe

ROUNDS = 5


def sheet_png(recipe: Recipe, reader: Reader, images: int, seed: int) -> bytes:
    """The contact sheet of images spread over a split, as a PNG file."""
    from PIL import Image

    from sslpipe.views.sheet import sheet

    places = np.unique(np.linspace(0, len(reader) - 1, min(images, len(reader))).astype(np.int64))
    batch = reader.gather(places)
    picture = sheet(batch, ViewEngine(recipe, seed=seed)(batch, epoch=0))
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def measure(recipe: Recipe, reader: Reader, batch_size: int, seed: int, renderer: str) -> dict[str, Any]:
    """Views a second of one batch held in memory: the median of a few rounds after a warm-up."""
    engine = ViewEngine(recipe, seed=seed, renderer=renderer)
    batch = reader.gather(np.arange(min(batch_size, len(reader))))
    engine(batch, epoch=0)
    rounds = []
    for epoch in range(ROUNDS):
        start = time.perf_counter()
        engine(batch, epoch)
        rounds.append(time.perf_counter() - start)
    views = sum(spec.count for spec in recipe.views)
    seconds = statistics.median(rounds)
    return {
        "views_per_second": round(views * len(batch) / seconds),
        "milliseconds_per_batch": round(1000 * seconds, 2),
        "views_per_image": views,
        "renderer": renderer,
    }
