"""What a crop is resized from: bytes of a canvas, a coloured picture, a rotated crop."""

from __future__ import annotations

import math

import numpy as np

from sslpipe.views.cpu.compiling import pixels
from sslpipe.views.cpu.vectors import wide

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
def _pack(canvas: np.ndarray, height: int, width: int, first: int, end: int, packed: np.ndarray) -> None:
    """Lines `first` to `end` of an image as 32-bit pixels, red lowest and 255 on top.

    Line y begins at (y + 1) · (width + 3), with an empty pixel before and two after it; lines outside are empty.
    """
    pitch = width + 3
    for y in range(first, end):
        target = packed[(y + 1) * pitch : (y + 2) * pitch]
        target[:] = 0
        if 0 <= y < height:
            source, inside = canvas[y], target[1 : width + 1]
            for x in range(width):
                red, green, blue = np.uint32(source[x, 0]), np.uint32(source[x, 1]), np.uint32(source[x, 2])
                inside[x] = red | green << np.uint32(8) | blue << np.uint32(16) | np.uint32(0xFF000000)


@pixels
def _between(
    a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32, shift: int, fx: np.float32, fy: np.float32
) -> np.float32:
    """One channel of four packed pixels, bilinear, in [0, 1]."""
    mask, bits = np.uint32(255), np.uint32(shift)
    p, q = np.float32(np.int32((a >> bits) & mask)), np.float32(np.int32((b >> bits) & mask))
    r, s = np.float32(np.int32((c >> bits) & mask)), np.float32(np.int32((d >> bits) & mask))
    upper, lower = p + fx * (q - p), r + fx * (s - r)
    return (upper + fy * (lower - upper)) * _UNIT


@pixels
def _places(
    x: np.float32,
    y: np.float32,
    cos: np.float32,
    sin: np.float32,
    from_middle: np.float32,
    far_x: np.float32,
    far_y: np.float32,
    column: np.ndarray,
    line: np.ndarray,
    fx: np.ndarray,
    fy: np.ndarray,
) -> None:
    """Where a row of outputs comes from: the packed pixel above and left, and the fractions beyond it."""
    wide()
    for j in range(fx.size):
        dx = np.float32(np.int32(j)) + from_middle
        px, py = min(max(cos * dx + x, -_ONE), far_x), min(max(sin * dx + y, -_ONE), far_y)
        x0, y0 = np.floor(px), np.floor(py)
        fx[j], fy[j] = px - x0, py - y0
        column[j], line[j] = np.uint32(np.int32(x0 + _ONE)), np.uint32(np.int32(y0 + _ONE))


@pixels
def _fetch(
    packed: np.ndarray,
    pitch: np.uint64,
    column: np.ndarray,
    line: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    d: np.ndarray,
) -> None:
    """The four packed pixels around each place."""
    for j in range(column.size):
        at = np.uint64(line[j]) * pitch + np.uint64(column[j])
        below = at + pitch
        a[j], b[j] = packed[at], packed[at + np.uint64(1)]
        c[j], d[j] = packed[below], packed[below + np.uint64(1)]


@pixels
def _interpolate(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    d: np.ndarray,
    fx: np.ndarray,
    fy: np.ndarray,
    fill: np.float32,
    red: np.ndarray,
    green: np.ndarray,
    blue: np.ndarray,
) -> None:
    """A row, weighed twice by the share of each output that is image, as torchvision does."""
    wide()
    for j in range(red.size):
        share = _between(a[j], b[j], c[j], d[j], 24, fx[j], fy[j])
        red[j] = (_between(a[j], b[j], c[j], d[j], 0, fx[j], fy[j]) - fill) * share + fill
        green[j] = (_between(a[j], b[j], c[j], d[j], 8, fx[j], fy[j]) - fill) * share + fill
        blue[j] = (_between(a[j], b[j], c[j], d[j], 16, fx[j], fy[j]) - fill) * share + fill


@pixels
def rotate_bytes(
    canvas: np.ndarray,
    height: int,
    width: int,
    box: np.ndarray,
    angle: np.float32,
    fill: np.float32,
    packed: np.ndarray,
    lines: np.ndarray,
    out: np.ndarray,
) -> None:
    """As `rotate`, straight from a canvas. What lies outside the image is pixels of nothing, so nothing branches."""
    top, left, h, w = box[0], box[1], box[2], box[3]
    radians = math.radians(np.float64(angle))
    cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
    half = np.float32(0.5)
    middle_x, middle_y = np.float32(left) + np.float32(w) * half, np.float32(top) + np.float32(h) * half
    reach = (abs(sin) * np.float32(w) + abs(cos) * np.float32(h)) * half + np.float32(2)
    first = min(max(math.floor(middle_y - reach), -1), height)
    _pack(canvas, height, width, first, max(min(math.ceil(middle_y + reach), height) + 2, 0), packed)
    fx, fy = lines[:w], lines[w:][:w]
    column, line = lines[2 * w :][:w].view(np.uint32), lines[3 * w :][:w].view(np.uint32)
    a, b = lines[4 * w :][:w].view(np.uint32), lines[5 * w :][:w].view(np.uint32)
    c, d = lines[6 * w :][:w].view(np.uint32), lines[7 * w :][:w].view(np.uint32)
    for i in range(h):
        dy = np.float32(i) + half - np.float32(h) * half
        x, y = middle_x - sin * dy - half, middle_y + cos * dy - half
        from_middle = half - np.float32(w) * half
        _places(x, y, cos, sin, from_middle, np.float32(width), np.float32(height), column, line, fx, fy)
        _fetch(packed, np.uint64(width + 3), column, line, a, b, c, d)
        red, green, blue = out[i * w :][:w], out[(h + i) * w :][:w], out[(2 * h + i) * w :][:w]
        _interpolate(a, b, c, d, fx, fy, fill, red, green, blue)


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
