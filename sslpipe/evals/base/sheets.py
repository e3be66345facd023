"""Sheets of pictures: scenes beside masks, scenes with boxes, images side by side."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

_SIDE, _GAP = 128, 6  # of a picture, and between pictures, pixels


def colour(number: int) -> tuple[int, int, int]:
    """A class's colour: hues a golden angle apart; class 0 of masks, the background, is near black."""
    if number == 0:
        return (24, 26, 30)
    red, green, blue = colorsys.hls_to_rgb((number - 1) * 0.381966 % 1, 0.58, 0.75)
    return (round(255 * red), round(255 * green), round(255 * blue))


def masks(pixels: Tensor, truth: Tensor, predicted: Tensor) -> bytes:
    """A PNG with a column for each scene, uint8 [n, S, S, 3]: the scene, its true mask, int64 [n, S, S], the
    predicted one.
    """
    palette = np.array([colour(n) for n in range(256)], np.uint8)
    rows = [pixels.numpy(), *(palette[each.numpy().clip(0, 255)] for each in (truth, predicted))]
    return _png([[Image.fromarray(image) for image in row] for row in rows])


def boxes(pixels: Tensor, found: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> bytes:
    """A PNG with a column for each scene, uint8 [n, S, S, 3], a row for each kind of boxes (true ones, predicted ones).

    For each row and scene `found` are boxes [m, 4], x1, y1, x2, y2 in pixels, and classes int64 [m], 0 … C − 1.
    """
    rows: list[list[Image.Image]] = []
    for row in found:
        rows.append([])
        for image, (corners, labels) in zip(pixels.numpy(), row, strict=True):
            scale = _SIDE / image.shape[0]
            picture = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            draw = ImageDraw.Draw(picture)
            for corner, label in zip((corners * scale).tolist(), labels.tolist(), strict=True):
                draw.rectangle(corner, outline=colour(label + 1), width=2)
                draw.text((corner[0] + 3, corner[1] + 1), str(label), fill=colour(label + 1))
            rows[-1].append(picture)
    return _png(rows)


def strip(images: Tensor) -> bytes:
    """A PNG of images uint8 [n, h, w, 3] side by side."""
    return _png([[Image.fromarray(image) for image in images.numpy()]])


def _png(rows: list[list[Image.Image]]) -> bytes:
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (step * len(rows[0]) - _GAP, step * len(rows) - _GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x * step, y * step))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
