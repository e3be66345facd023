"""One view at a time, in a core's own cache, without the interpreter's lock.

A view goes through *phases*. The first resizes the crop, a few rows at a time, and while these rows are still
in the nearest cache applies the colour operations that follow. Contrast needs the whole view's mean and blur
its neighbours, so each begins another phase. The last phase also normalises and writes.

Pictures are planar rows whose length is a multiple of `LANES`, so that loops run over whole vector registers;
what lies beyond a row's end is zero until contrast, and never written out.

The results are those of `reference` but for the order of float32 additions. Taps are computed in its very
rounding order; only pixel arithmetic may use fused multiply-add.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sslpipe.core.numba import entry, exact
from sslpipe.views.render.cpu.blur import blur_across, blur_down, gaussian
from sslpipe.views.render.cpu.colour import (
    BLUR,
    CONTRAST,
    CROP,
    MOST,
    TILE,
    apply,
    colour_whole,
    plan,
    total_luma,
    towards,
)
from sslpipe.views.render.cpu.resizing import (
    BYTES,
    PICTURE,
    TURNED,
    Crop,
    Scratch,
    Settings,
    bring_near,
    resize,
)
from sslpipe.views.render.cpu.source import load_image, rotate
from sslpipe.views.render.cpu.taps import make_bands
from sslpipe.views.render.cpu.vectors import LANES, claim
from sslpipe.views.render.cpu.writing import write, write_turned

_RESIZE, _CONTRASTED, _BLURRED = range(3)  # where a phase's rows come from
_ZERO = np.float32(0)


class Rows(NamedTuple):
    """A `Table`.

    Attributes:
        source: [N] which canvas.
        size: [N, 2] height and width of the image on it.
        box: [N, 4] top, left, height and width of the crop.
        drawn: [N] records of what is drawn for the operations.
    """

    source: np.ndarray
    size: np.ndarray
    box: np.ndarray
    drawn: np.ndarray


@exact
def _pieces(
    scratch: np.ndarray, settings: Settings, size: int, pitch: int, extent: int, early: bool
) -> Scratch:
    """The scratch, piece by piece; `cpu._scratch_floats` counts the same.

    Args:
        scratch: a thread's.
        settings: of the spec.
        size: of the views.
        pitch: numbers a row of a view.
        extent: side of the canvases.
        early: whether colour comes before the crop.
    """
    half, blocks, at = settings.half, pitch // LANES, 0
    x = scratch[at : at + 3 * size * pitch]
    at += x.size
    y = scratch[at : at + 3 * (size + 2 * half) * pitch]
    at += y.size
    ring = scratch[at : at + settings.slots * 3 * pitch]
    at += ring.size
    bands = scratch[at : at + blocks * settings.reaches * LANES]
    at += bands.size
    row = scratch[at : at + 3 * (extent + LANES)]
    at += row.size
    line = scratch[at : at + extent + pitch + 2 * half + 2 * LANES]
    at += line.size
    weights = scratch[at : at + half + 1]
    at += weights.size
    whole = (
        3 * extent * extent if early else 3 * extent if settings.rotates else 0
    )  # 3 · extent: one pixel wide
    image = scratch[at : at + whole]
    at += image.size
    turned = scratch[at : at + whole] if settings.rotates else scratch[:0]
    starts = np.empty((blocks, 3), np.intp)
    return Scratch(x, y, ring, bands, starts, row, line, weights, image, turned)


@exact
def _crop(
    canvas: np.ndarray,
    height: int,
    width: int,
    box: np.ndarray,
    angle: np.float32,
    settings: Settings,
    scratch: Scratch,
    ops: np.ndarray,
    factors: np.ndarray,
    count: int,
) -> Crop:
    """What a view is resized from, after the first `count` of the operations that come before the crop."""
    extent, plane = canvas.shape[1], height * width
    top, left, box_height, box_width = box.astype(np.int64)
    if count > 0 or (settings.rotates and min(height, width) < 2):
        load_image(canvas, height, width, scratch.image)
        colour_whole(scratch.image, plane, ops, factors, count)
        if settings.rotates:
            rotate(scratch.image, height, width, box, angle, settings.fill, scratch.turned)
            return Crop(
                canvas, height, width, box, _ZERO, _ZERO, PICTURE, scratch.turned, box_height * box_width, 0, box_width
            )  # fmt: skip
        start = top * width + left
        return Crop(canvas, height, width, box, _ZERO, _ZERO, PICTURE, scratch.image, plane, start, width)
    if settings.rotates:
        radians = math.radians(np.float64(angle))
        cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
        bring_near(canvas, height, width, box)
        plane = (box_width + LANES - 1) // LANES * LANES  # of one row, each in the place of the one before
        return Crop(canvas, height, width, box, cos, sin, TURNED, scratch.row, plane, 0, 0)
    start, step = 3 * (top * extent + left), 3 * extent
    return Crop(canvas, height, width, box, _ZERO, _ZERO, BYTES, scratch.row, 0, start, step)


@exact
def _finish(
    crop: Crop,
    settings: Settings,
    scratch: Scratch,
    size: int,
    pitch: int,
    ops: np.ndarray,
    factors: np.ndarray,
    count: int,
    vflip: bool,
    turns: int,
    out: np.ndarray,
) -> None:
    """Resize a crop and do the first `count` operations, phase by phase, into out [3, S, S]."""
    x, mean, inverse = scratch.x, settings.mean, settings.inverse
    rows_a_tile = max(1, TILE // pitch)
    ready = 0  # rows of the crop that are resized across
    phase, i, reach = _RESIZE, 0, 0
    factor = luma = _ZERO
    while True:
        j = i
        while j < count and ops[j] != CONTRAST and ops[j] != BLUR:
            j += 1
        total = 0.0
        for first in range(0, size, rows_a_tile):
            end = min(first + rows_a_tile, size)
            if phase == _RESIZE:
                ready = resize(crop, settings, scratch, size, pitch, ready, first, end)
            elif phase == _BLURRED:
                blur_down(scratch.y, x, size, pitch, reach, scratch.weights, first, end)
            r = x[first * pitch : end * pitch]
            g = x[(size + first) * pitch : (size + end) * pitch]
            b = x[(2 * size + first) * pitch : (2 * size + end) * pitch]
            if phase == _CONTRASTED:
                towards(r, g, b, factor, luma)
            for k in range(i, j):
                apply(ops[k], r, g, b, factors[k])
            if j < count:
                if ops[j] == CONTRAST:
                    total += total_luma(r, g, b)
            elif turns == 0:
                write(x, out, size, pitch, first, end, vflip, mean, inverse)
            else:
                write_turned(x, out, size, pitch, first, end, vflip, turns, mean, inverse)
        if j == count:
            break
        if ops[j] == CONTRAST:
            phase, factor, luma = _CONTRASTED, factors[j], np.float32(total / (size * size))
        else:
            phase = _BLURRED
            reach = gaussian(factors[j], settings.half, scratch.weights)
            blur_across(x, scratch.y, size, pitch, reach, scratch.weights, scratch.line)
        i = j + 1


@entry
def render_rows(
    canvases: np.ndarray,
    rows: Rows,
    settings: Settings,
    memory: np.ndarray,
    out: np.ndarray,
    counter: np.ndarray,
    share: int,
) -> None:
    """Render rows of a table into out [N, 3, S, S]: `share` at a time, from `counter` on, until there are none left.

    Threads with the same counter divide the work among them.

    Args:
        canvases: [M, R, R, 3] bytes.
        rows: of the table.
        settings: of the spec.
        memory: float32, this thread's own.
        out: where to write.
        counter: [1] the next row that no thread has taken.
        share: rows to take at a time.
    """
    size = out.shape[2]
    pitch = (size + LANES - 1) // LANES * LANES
    crop_step = 0
    while settings.steps[crop_step] != CROP:
        crop_step += 1
    early_steps, late_steps = settings.steps[:crop_step], settings.steps[crop_step + 1 :]
    scratch = _pieces(memory, settings, size, pitch, canvases.shape[1], crop_step > 0)
    ops, factors = np.empty(MOST, np.int64), np.empty(MOST, np.float32)
    while True:
        start = claim(counter, share)
        if start >= len(rows.source):
            break
        for n in range(start, min(start + share, len(rows.source))):
            canvas, drawn, box = canvases[rows.source[n]], rows.drawn[n], rows.box[n]
            height, width = np.int64(rows.size[n, 0]), np.int64(rows.size[n, 1])
            count = plan(early_steps, settings.strengths, drawn, ops, factors)
            crop = _crop(canvas, height, width, box, drawn.angle, settings, scratch, ops, factors, count)
            count = plan(late_steps, settings.strengths, drawn, ops, factors)
            make_bands(box[3], size, settings.cubic, drawn.hflip, scratch.line, scratch.starts, scratch.bands)
            _finish(
                crop, settings, scratch, size, pitch, ops, factors, count, drawn.vflip, drawn.turns, out[n]
            )
