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

from sslpipe.core.numba import entry, pixels
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
from sslpipe.views.render.cpu.source import load_image, rotate, rotate_row, unit
from sslpipe.views.render.cpu.taps import make_bands, taps
from sslpipe.views.render.cpu.vectors import LANES, blend, blend_4, claim, prefetch, weigh, wide

_RESIZE, _CONTRASTED, _BLURRED = range(3)  # where a phase's rows come from
_BYTES, _PICTURE, _TURNED = range(3)  # where a crop's rows come from
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


class Settings(NamedTuple):
    """What a spec says of all rows of a table.

    Attributes:
        steps: numbers of the steps, in the order of work; see `colour.STEPS`.
        strengths: of jitter's adjustments.
        half: length of the blur's kernel on either side of its centre.
        cubic: bicubic, else bilinear.
        rotates: whether crops are turned.
        fill: grey level outside the image.
        mean: of the normalisation.
        inverse: 1 / std of the normalisation.
        slots: the most rows that an output row is made of.
        reaches: the most inputs that a block of outputs reads.
    """

    steps: np.ndarray
    strengths: np.ndarray
    half: int
    cubic: bool
    rotates: bool
    fill: np.float32
    mean: np.ndarray
    inverse: np.ndarray
    slots: int
    reaches: int


@pixels
def _write(
    x: np.ndarray,
    out: np.ndarray,
    size: int,
    pitch: int,
    first: int,
    end: int,
    vflip: bool,
    mean: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """Normalise rows into out [3, S, S], upside down where the view drew it."""
    wide()
    for c in range(3):
        m, s = mean[c], inverse[c]
        for row in range(first, end):
            source = x[(c * size + row) * pitch :][:size]
            target = out[c, size - 1 - row if vflip else row]
            for i in range(size):
                target[i] = (source[i] - m) * s


@pixels
def _write_turned(
    x: np.ndarray,
    out: np.ndarray,
    size: int,
    pitch: int,
    first: int,
    end: int,
    vflip: bool,
    turns: int,
    mean: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """As `_write`, then turned counter-clockwise by one to three quarters."""
    last = size - 1
    for c in range(3):
        m, s = mean[c], inverse[c]
        for row in range(first, end):
            source = x[(c * size + row) * pitch :][:size]
            y = last - row if vflip else row
            if turns == 1:
                for i in range(size):
                    out[c, last - i, y] = (source[i] - m) * s
            elif turns == 2:
                for i in range(size):
                    out[c, last - y, last - i] = (source[i] - m) * s
            else:
                for i in range(size):
                    out[c, i, last - y] = (source[i] - m) * s


@pixels
def _mix(
    ring: np.ndarray,
    slots: int,
    first: int,
    count: int,
    weights: np.ndarray,
    pitch: int,
    out: np.ndarray,
    to: int,
    plane: int,
) -> None:
    """One output row of three channels from the ring of rows that are resized across."""
    slot, step = first % slots, 3 * pitch
    wide = pitch // (4 * LANES) * (4 * LANES)
    for c in range(3):
        for i in range(0, wide, 4 * LANES):
            blend_4(out, to + c * plane + i, ring, c * pitch + i, slot, slots, step, weights, count)
        for i in range(wide, pitch, LANES):
            blend(out, to + c * plane + i, ring, c * pitch + i, slot, slots, step, weights, count)


@pixels
def _bring_near(canvas: np.ndarray, height: int, width: int, box: np.ndarray) -> None:
    """Ask for the pixels that a turned crop may need: its reads go across rows, which no processor foresees."""
    data, pitch = canvas.reshape(-1), 3 * canvas.shape[1]
    reach = (box[2] + box[3]) // 8
    for y in range(max(box[0] - reach, 0), min(box[0] + box[2] + reach, height)):
        for at in range(
            y * pitch + 3 * max(box[1] - reach, 0), y * pitch + 3 * min(box[1] + box[3] + reach, width), 64
        ):
            prefetch(data, at)


@pixels
def _resize(
    canvas: np.ndarray,
    origin: int,
    image_height: int,
    image_width: int,
    box: np.ndarray,
    cos: np.float32,
    sin: np.float32,
    fill: np.float32,
    picture: np.ndarray,
    start: int,
    step: int,
    plane: int,
    height: int,
    width: int,
    cubic: bool,
    row: np.ndarray,
    line: np.ndarray,
    ring: np.ndarray,
    slots: int,
    ready: int,
    starts: np.ndarray,
    bands: np.ndarray,
    x: np.ndarray,
    size: int,
    pitch: int,
    first: int,
    end: int,
) -> int:
    """Output rows `first` to `end` of a crop, into x; returns how many of the crop's rows are resized across so far.

    Row y of the crop begins at start + y · step of a canvas of bytes; or at c · plane more for channel c of a
    picture; or it is made by turning the canvas.
    """
    data = canvas.reshape(-1)
    for output in range(first, end):
        low, count = taps(output, height, size, cubic, line)
        while ready < low + count:
            slot = (ready % slots) * 3 * pitch
            if origin != _BYTES:
                at = start + ready * step
                if origin == _TURNED:
                    rotate_row(canvas, image_height, image_width, box, cos, sin, fill, ready, row, plane)
                for block in range(starts.shape[0]):
                    weigh(
                        ring,
                        slot + block * LANES,
                        pitch,
                        bands,
                        starts[block, 2],
                        picture,
                        at + starts[block, 0],
                        plane,
                        1,
                        starts[block, 1],
                    )
            else:
                unit(data[start + ready * step : start + ready * step + 3 * width], row)
                for block in range(starts.shape[0]):
                    weigh(
                        ring,
                        slot + block * LANES,
                        pitch,
                        bands,
                        starts[block, 2],
                        row,
                        3 * starts[block, 0],
                        1,
                        3,
                        starts[block, 1],
                    )
            ready += 1
        _mix(ring, slots, low, count, line, pitch, x, output * pitch, size * pitch)
    return ready


@entry
def render_rows(
    canvases: np.ndarray,
    rows: Rows,
    settings: Settings,
    scratch: np.ndarray,
    out: np.ndarray,
    counter: np.ndarray,
    share: int,
) -> None:
    """Render rows of a table into out [N, 3, S, S]: `share` at a time, from `counter` on, until there are none left.

    Threads with the same counter divide the work among them.
    """
    size = out.shape[2]
    pitch = (size + LANES - 1) // LANES * LANES
    extent = canvases.shape[1]
    blocks = pitch // LANES
    half, cubic, rotates, fill = settings.half, settings.cubic, settings.rotates, settings.fill
    slots, reaches = settings.slots, settings.reaches
    crop_step = 0
    while settings.steps[crop_step] != CROP:
        crop_step += 1
    early_steps, late_steps = settings.steps[:crop_step], settings.steps[crop_step + 1 :]

    # The scratch, piece by piece; `cpu.scratch_floats` counts the same.
    at = 0
    x = scratch[at : at + 3 * size * pitch]
    at += 3 * size * pitch
    y = scratch[at : at + 3 * (size + 2 * half) * pitch]
    at += 3 * (size + 2 * half) * pitch
    ring = scratch[at : at + slots * 3 * pitch]
    at += slots * 3 * pitch
    bands = scratch[at : at + blocks * reaches * LANES]
    at += blocks * reaches * LANES
    row = scratch[at : at + 3 * (extent + LANES)]
    at += row.size
    line = scratch[at : at + extent + pitch + 2 * half + 2 * LANES]
    at += extent + pitch + 2 * half + 2 * LANES
    weights = scratch[at : at + half + 1]
    at += half + 1
    whole = 3 * extent * extent if crop_step else 3 * extent if rotates else 0  # 3 · extent: one pixel wide
    image = scratch[at : at + whole]
    at += image.size
    turned = scratch[at : at + whole] if rotates else scratch[:0]

    starts = np.empty((blocks, 3), np.intp)
    early, late = np.empty(MOST, np.int64), np.empty(MOST, np.int64)
    early_factors, late_factors = np.empty(MOST, np.float32), np.empty(MOST, np.float32)
    rows_a_tile = max(1, TILE // pitch)
    while True:
        start = claim(counter, share)
        if start >= len(rows.source):
            break
        for n in range(start, min(start + share, len(rows.source))):
            canvas, drawn = canvases[rows.source[n]], rows.drawn[n]
            height, width = rows.size[n, 0], rows.size[n, 1]
            box = rows.box[n]
            top, left, box_height, box_width = box[0], box[1], box[2], box[3]
            early_ops = plan(early_steps, settings.strengths, drawn, early, early_factors)
            ops = plan(late_steps, settings.strengths, drawn, late, late_factors)

            origin, picture, plane = _BYTES, row, 0
            start_of_crop, row_step = 3 * (top * extent + left), 3 * extent
            cos = sin = _ZERO
            if early_ops > 0 or (rotates and min(height, width) < 2):
                load_image(canvas, height, width, image)
                colour_whole(image, height * width, early, early_factors, early_ops)
                origin, picture, plane = _PICTURE, image, height * width
                start_of_crop, row_step = top * width + left, width
                if rotates:
                    rotate(image, height, width, box, drawn.angle, fill, turned)
                    picture, plane, start_of_crop, row_step = turned, box_height * box_width, 0, box_width
            elif rotates:
                radians = math.radians(np.float64(drawn.angle))
                cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
                _bring_near(canvas, height, width, box)
                origin, plane = _TURNED, (box_width + LANES - 1) // LANES * LANES
                start_of_crop = row_step = 0  # each row in the place of the one before

            make_bands(box_width, size, cubic, drawn.hflip, line, starts, bands)
            ready = 0  # rows of the crop that are resized across
            phase, i, reach = _RESIZE, 0, 0
            factor = luma = _ZERO
            while True:
                j = i
                while j < ops and late[j] != CONTRAST and late[j] != BLUR:
                    j += 1
                total = 0.0
                for first in range(0, size, rows_a_tile):
                    end = min(first + rows_a_tile, size)
                    if phase == _RESIZE:
                        ready = _resize(
                            canvas,
                            origin,
                            height,
                            width,
                            box,
                            cos,
                            sin,
                            fill,
                            picture,
                            start_of_crop,
                            row_step,
                            plane,
                            box_height,
                            box_width,
                            cubic,
                            row,
                            line,
                            ring,
                            slots,
                            ready,
                            starts,
                            bands,
                            x,
                            size,
                            pitch,
                            first,
                            end,
                        )
                    elif phase == _BLURRED:
                        blur_down(y, x, size, pitch, reach, weights, first, end)
                    r = x[first * pitch : end * pitch]
                    g = x[(size + first) * pitch : (size + end) * pitch]
                    b = x[(2 * size + first) * pitch : (2 * size + end) * pitch]
                    if phase == _CONTRASTED:
                        towards(r, g, b, factor, luma)
                    for k in range(i, j):
                        apply(late[k], r, g, b, late_factors[k])
                    if j == ops:
                        if drawn.turns == 0:
                            _write(x, out[n], size, pitch, first, end, drawn.vflip, settings.mean, settings.inverse)
                        else:
                            _write_turned(
                                x, out[n], size, pitch, first, end, drawn.vflip, drawn.turns, settings.mean, settings.inverse
                            )
                    elif late[j] == CONTRAST:
                        total += total_luma(r, g, b)
                if j == ops:
                    break
                if late[j] == CONTRAST:
                    phase, factor, luma = _CONTRASTED, late_factors[j], np.float32(total / (size * size))
                else:
                    phase = _BLURRED
                    reach = gaussian(late_factors[j], half, weights)
                    blur_across(x, y, size, pitch, reach, weights, line)
                i = j + 1
