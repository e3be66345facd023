"""What a crop is resized from: bytes of a canvas, a coloured picture, a rotated crop."""

import math
from typing import NamedTuple

import numpy as np

from sslpipe.core.numba import pixels
from sslpipe.views.render.cpu.turning import turn, turn_edge
from sslpipe.views.render.cpu.vectors import LANES, prefetch, wide

BYTES, PICTURE, TURNED = range(3)  # where a crop's rows come from
_UNIT = np.float32(1 / 255)
_ONE, _ZERO = np.float32(1), np.float32(0)


class Crop(NamedTuple):
    """A crop, and where its rows come from.

    Row y begins at start + y · step of a canvas of BYTES, or at c · plane more for channel c of a PICTURE; or it is
    made by turning the canvas (TURNED).
    """

    canvas: np.ndarray  # [R, R, 3] bytes
    image_height: int
    image_width: int  # of the image on the canvas
    box: np.ndarray  # top, left, height and width of the crop
    cos: np.float32
    sin: np.float32  # of the angle, where it is TURNED
    origin: int  # BYTES, PICTURE or TURNED
    picture: np.ndarray  # planar pixels, where the crop is not read from BYTES
    plane: int  # pixels of a plane of the picture
    start: int  # of the crop's first row
    step: int  # from a row to the next


@pixels
def unit(data: np.ndarray, row: np.ndarray) -> None:
    """Bytes as float32 in [0, 1]."""
    wide()
    for i in range(data.size):
        row[i] = np.float32(data[i]) * _UNIT


@pixels
def rotate(
    source: np.ndarray, height: int, width: int, box: np.ndarray, angle: np.float32, fill: np.float32,
    out: np.ndarray,
) -> None:  # fmt: skip
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
            inside = red = green = blue = _ZERO
            for corner in range(4):
                xc, yc = x0 + (corner & 1), y0 + (corner >> 1)
                if 0 <= xc < width and 0 <= yc < height:
                    weight = (fx if corner & 1 else _ONE - fx) * (fy if corner >> 1 else _ONE - fy)
                    at = yc * width + xc
                    inside += weight
                    red += weight * source[at]
                    green += weight * source[height * width + at]
                    blue += weight * source[2 * height * width + at]
            at = i * w + j
            out[at] = (red - fill) * inside + fill
            out[h * w + at] = (green - fill) * inside + fill
            out[2 * h * w + at] = (blue - fill) * inside + fill


@pixels
def bring_near(canvas: np.ndarray, height: int, width: int, box: np.ndarray) -> None:
    """Ask for the pixels that a turned crop may need: its reads go across rows, which no processor foresees."""
    data, pitch = canvas.reshape(-1), 3 * canvas.shape[1]
    reach = (box[2] + box[3]) // 8
    left, right = max(box[1] - reach, 0), min(box[1] + box[3] + reach, width)
    for y in range(max(box[0] - reach, 0), min(box[0] + box[2] + reach, height)):
        for at in range(y * pitch + 3 * left, y * pitch + 3 * right, 64):
            prefetch(data, at)


@pixels
def _between(start: np.float32, slope: np.float32, last: np.float32, j: int) -> bool:
    """Whether pixels 0 … `last` lie on both sides of the places start + slope · j of a row's next LANES outputs.

    The thousandth is for rounding.
    """
    a = start + slope * np.float32(np.int32(j))
    b = a + slope * np.float32(LANES - 1)
    return bool(min(a, b) >= np.float32(1e-3) and max(a, b) <= last - np.float32(1e-3))


@pixels
def rotate_row(crop: Crop, fill: np.float32, i: int, row: np.ndarray) -> None:
    """Row `i` of what `rotate` gives, straight from a canvas whose image has two pixels or more each way.

    Channel c is written from c · `crop.plane` on, and up to LANES - 1 numbers beyond the row's end.
    """
    top, left, h, w = crop.box[0], crop.box[1], crop.box[2], crop.box[3]
    plane, cos, sin = crop.plane, crop.cos, crop.sin
    half = np.float32(0.5)
    middle_x, middle_y = np.float32(left) + np.float32(w) * half, np.float32(top) + np.float32(h) * half
    from_middle = half - np.float32(w) * half
    dy = np.float32(i) + half - np.float32(h) * half
    x = (middle_x - sin * dy) - half + cos * from_middle
    y = (middle_y + cos * dy) - half + sin * from_middle
    data, pitch = crop.canvas.reshape(-1), 3 * crop.canvas.shape[1]
    last_x, last_y = np.float32(crop.image_width - 1), np.float32(crop.image_height - 1)
    for j in range(0, w, LANES):
        if _between(x, cos, last_x, j) and _between(y, sin, last_y, j):
            turn(row, j, plane, data, pitch, x, y, cos, sin, j, last_x, last_y, fill)
        else:
            turn_edge(row, j, plane, data, pitch, x, y, cos, sin, j, last_x, last_y, fill)


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
