"""What a crop is resized from: bytes of a canvas, a coloured picture, a rotated crop."""

from __future__ import annotations

import math

import numpy as np

from sslpipe.views.cpu.compiling import pixels
from sslpipe.views.cpu.vectors import eight_bytes, wide

_UNIT = np.float32(1 / 255)
_ONE, _ZERO = np.float32(1), np.float32(0)


@pixels
def unit(data: np.ndarray, row: np.ndarray) -> None:
    """Bytes as float32 in [0, 1]."""
    wide()
    for i in range(data.size):
        row[i] = np.float32(data[i]) * _UNIT


@pixels
def rotate(
    source: np.ndarray,
    height: int,
    width: int,
    box: np.ndarray,
    angle: np.float32,
    fill: np.float32,
    out: np.ndarray,
) -> None:
    """The crop `box` of a planar picture, rotated about the box's centre: [3 · height · width] → [3 · h · w]."""
    top, left, h, w = box[0], box[1], box[2], box[3]
    radians = math.radians(np.float64(angle))
    cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
    middle_x = np.float32(left) + np.float32(w) / np.float32(2)
    middle_y = np.float32(top) + np.float32(h) / np.float32(2)
    for i in range(h):
        dy = np.float32(i) + np.float32(0.5) - np.float32(h) / np.float32(2)
        for j in range(w):
            dx = np.float32(j) + np.float32(0.5) - np.float32(w) / np.float32(2)
            x = (cos * dx - sin * dy + middle_x) - np.float32(0.5)
            y = (sin * dx + cos * dy + middle_y) - np.float32(0.5)
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            fx, fy = x - np.float32(x0), y - np.float32(y0)
            share = red = green = blue = _ZERO
            for corner in range(4):
                xc, yc = x0 + (corner & 1), y0 + (corner >> 1)
                if 0 <= xc < width and 0 <= yc < height:
                    weight = (fx if corner & 1 else _ONE - fx) * (fy if corner >> 1 else _ONE - fy)
                    at = yc * width + xc
                    share += weight
                    red += weight * source[at]
                    green += weight * source[height * width + at]
                    blue += weight * source[2 * height * width + at]
            at = i * w + j
            out[at] = (red - fill) * share + fill
            out[h * w + at] = (green - fill) * share + fill
            out[2 * h * w + at] = (blue - fill) * share + fill


@pixels
def _weights(place: np.float32, last: np.float32) -> tuple[np.float32, np.float32, np.float32]:
    """The first of the two pixels 0 … `last` that lie about a place, and what each of them weighs there.

    Pixels that are not there weigh nothing: at the edges the pair is the outermost one.
    """
    low = np.floor(place)
    part = place - low
    one = part if low < _ZERO else _ONE - part if low < last else _ZERO
    other = part if low < last else _ONE - part
    if low < _ZERO:
        other = _ZERO
    gone = place <= -_ONE or place >= last + _ONE
    first = min(max(low, _ZERO), last - _ONE)
    return first, _ZERO if gone else one, _ZERO if gone else other


@pixels
def _places(
    x: np.float32,
    y: np.float32,
    cos: np.float32,
    sin: np.float32,
    last_x: np.float32,
    last_y: np.float32,
    column: np.ndarray,
    line: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Where a row of outputs comes from: the upper left of four pixels, and the weights of left, right, up and down."""
    wide()
    n = column.size
    left, right, up, down = weights[:n], weights[n:][:n], weights[2 * n :][:n], weights[3 * n :][:n]
    for j in range(n):
        place = np.float32(np.int32(j))
        first_x, left[j], right[j] = _weights(cos * place + x, last_x)
        first_y, up[j], down[j] = _weights(sin * place + y, last_y)
        column[j], line[j] = np.uint32(np.int32(first_x)), np.uint32(np.int32(first_y))


@pixels
def _fetch(
    data: np.ndarray,
    pitch: int,
    column: np.ndarray,
    line: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    d: np.ndarray,
) -> None:
    """The four pixels at each place, red lowest. Eight bytes hold two neighbours, and never reach beyond the canvas."""
    for j in range(column.size):
        at = np.int64(line[j]) * pitch + np.int64(column[j]) * 3
        above, below = eight_bytes(data, at), eight_bytes(data, at + pitch - 2) >> np.uint64(16)
        a[j], b[j] = np.uint32(above), np.uint32(above >> np.uint64(24))
        c[j], d[j] = np.uint32(below), np.uint32(below >> np.uint64(24))


@pixels
def _channel(pixel: np.uint32, bits: int) -> np.float32:
    return np.float32(np.int32((pixel >> np.uint32(bits)) & np.uint32(255)))


@pixels
def _interpolate(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    d: np.ndarray,
    weights: np.ndarray,
    bits: int,
    fill: np.float32,
    out: np.ndarray,
) -> None:
    """One channel of a row, weighed twice by the share of each output that is image, as torchvision does."""
    wide()
    n = out.size
    left, right, up, down = weights[:n], weights[n:][:n], weights[2 * n :][:n], weights[3 * n :][:n]
    for j in range(n):
        upper = _channel(a[j], bits) * left[j] + _channel(b[j], bits) * right[j]
        lower = _channel(c[j], bits) * left[j] + _channel(d[j], bits) * right[j]
        share = (left[j] + right[j]) * (up[j] + down[j])
        out[j] = ((upper * up[j] + lower * down[j]) * _UNIT - fill) * share + fill


@pixels
def rotate_bytes(
    canvas: np.ndarray,
    height: int,
    width: int,
    box: np.ndarray,
    angle: np.float32,
    fill: np.float32,
    lines: np.ndarray,
    out: np.ndarray,
) -> None:
    """As `rotate`, straight from a canvas whose image has two pixels or more each way. Nothing branches on a pixel."""
    top, left, h, w = box[0], box[1], box[2], box[3]
    radians = math.radians(np.float64(angle))
    cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
    half = np.float32(0.5)
    middle_x, middle_y = np.float32(left) + np.float32(w) * half, np.float32(top) + np.float32(h) * half
    from_middle = half - np.float32(w) * half
    data, pitch = canvas.reshape(-1), 3 * canvas.shape[1]
    last_x, last_y = np.float32(width - 1), np.float32(height - 1)
    column, line = lines[:w].view(np.uint32), lines[w:][:w].view(np.uint32)
    a, b = lines[2 * w :][:w].view(np.uint32), lines[3 * w :][:w].view(np.uint32)
    c, d = lines[4 * w :][:w].view(np.uint32), lines[5 * w :][:w].view(np.uint32)
    weights = lines[6 * w :][: 4 * w]
    for i in range(h):
        dy = np.float32(i) + half - np.float32(h) * half
        x = (middle_x - sin * dy) - half + cos * from_middle
        y = (middle_y + cos * dy) - half + sin * from_middle
        _places(x, y, cos, sin, last_x, last_y, column, line, weights)
        _fetch(data, pitch, column, line, a, b, c, d)
        for channel in range(3):
            row = out[(channel * h + i) * w :][:w]
            _interpolate(a, b, c, d, weights, 8 * channel, fill, row)


@pixels
def load_image(canvas: np.ndarray, height: int, width: int, out: np.ndarray) -> None:
    """The whole image of a canvas, planar float32."""
    r, g, b = out[: height * width], out[height * width : 2 * height * width], out[2 * height * width :]
    for y in range(height):
        source, at = canvas[y], y * width
        for x in range(width):
            r[at + x] = np.float32(source[x, 0]) * _UNIT
            g[at + x] = np.float32(source[x, 1]) * _UNIT
            b[at + x] = np.float32(source[x, 2]) * _UNIT
