"""One view at a time, in a core's own cache, without the interpreter's lock.

A view goes through *phases*. The first resizes the crop, a few rows at a time, and while these rows are still
in the nearest cache applies the colour operations that follow. Contrast needs the whole view's mean and blur
its neighbours, so each begins another phase. The last phase also normalises and writes.

Pictures are planar rows whose length is a multiple of `LANES`, so that loops run over whole vector registers;
what lies beyond a row's end is zero until contrast, and never written out.

The results are those of `reference` but for the order of float32 additions. Taps are computed in its very
rounding order; only pixel arithmetic may use fused multiply-add.
"""

import math
from typing import NamedTuple

import numpy as np

from sslpipe.core.numba import entry, exact, pixels
from sslpipe.views.render.cpu import colour
from sslpipe.views.render.cpu.blur import blur_across, blur_down, gaussian
from sslpipe.views.render.cpu.colour import BLUR, CONTRAST
from sslpipe.views.render.cpu.resizing import Scratch, Settings, resize
from sslpipe.views.render.cpu.source import BYTES, PICTURE, TURNED, Crop, bring_near, load_image, rotate
from sslpipe.views.render.cpu.taps import make_bands
from sslpipe.views.render.cpu.vectors import LANES, claim, wide

_RESIZE, _CONTRASTED, _BLURRED = range(3)  # where a phase's rows come from
_ZERO = np.float32(0)


class Rows(NamedTuple):
    """A `Table`."""

    source: np.ndarray  # [N] which canvas
    size: np.ndarray  # [N, 2] height and width of the image on it
    box: np.ndarray  # [N, 4] top, left, height and width of the crop
    drawn: np.ndarray  # [N] records of what is drawn for the operations


@exact
def _pieces(memory: np.ndarray, lengths: np.ndarray, blocks: int) -> Scratch:
    """A thread's working memory, piece by piece; `blocks` of LANES numbers make a row of the view."""
    x, y, ring, bands, row, line, weights, image, turned = np.cumsum(lengths)
    return Scratch(
        memory[:x], memory[x:y], memory[y:ring], memory[ring:bands], memory[bands:row], memory[row:line],
        memory[line:weights], memory[weights:image], memory[image:turned], np.empty((blocks, 3), np.intp),
    )  # fmt: skip


@exact
def _crop(
    canvas: np.ndarray, height: int, width: int, box: np.ndarray, angle: np.float32, settings: Settings,
    scratch: Scratch, ops: np.ndarray, factors: np.ndarray, count: int,
) -> Crop:  # fmt: skip
    """What a view is resized from, after the first `count` of the operations that come before the crop."""
    extent = canvas.shape[1]
    top, left, box_height, box_width = box.astype(np.int64)
    cos = sin = _ZERO
    if count > 0 or (settings.rotates and min(height, width) < 2):
        load_image(canvas, height, width, scratch.image)
        colour.apply_to_whole(scratch.image, height * width, ops, factors, count)
        plane, start = height * width, top * width + left
        origin, picture, step = PICTURE, scratch.image, width
        if settings.rotates:
            rotate(scratch.image, height, width, box, angle, settings.fill, scratch.turned)
            picture, plane, start, step = scratch.turned, box_height * box_width, 0, box_width
    elif settings.rotates:
        radians = math.radians(np.float64(angle))
        cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
        bring_near(canvas, height, width, box)
        row = (box_width + LANES - 1) // LANES * LANES  # each in the place of the one before
        origin, picture, plane, start, step = TURNED, scratch.row, row, 0, 0
    else:
        origin, picture, plane, start, step = BYTES, scratch.row, 0, 3 * (top * extent + left), 3 * extent
    return Crop(canvas, height, width, box, cos, sin, origin, picture, plane, start, step)


@pixels
def _normalise(source: np.ndarray, target: np.ndarray, mean: np.float32, inverse: np.float32) -> None:
    wide()
    for i in range(source.size):
        target[i] = (source[i] - mean) * inverse


@pixels
def _write(
    x: np.ndarray, out: np.ndarray, size: int, pitch: int, first: int, end: int, vflip: bool, turns: int,
    mean: np.ndarray, inverse: np.ndarray,
) -> None:  # fmt: skip
    """Normalise rows into out [3, S, S], upside down where `vflip`, then turned by quarters counter-clockwise."""
    last = size - 1
    for c in range(3):
        for row in range(first, end):
            source = x[(c * size + row) * pitch :][:size]
            y = last - row if vflip else row
            if turns == 0:
                _normalise(source, out[c, y], mean[c], inverse[c])
            elif turns == 1:
                _normalise(source, out[c, ::-1, y], mean[c], inverse[c])
            elif turns == 2:
                _normalise(source, out[c, last - y, ::-1], mean[c], inverse[c])
            else:
                _normalise(source, out[c, :, last - y], mean[c], inverse[c])


@exact
def _finish(
    crop: Crop, settings: Settings, scratch: Scratch, size: int, pitch: int, ops: np.ndarray, factors: np.ndarray,
    count: int, vflip: bool, turns: int, out: np.ndarray,
) -> None:  # fmt: skip
    """Resize a crop and do the first `count` operations, phase by phase, into out [3, S, S]."""
    x, mean, inverse = scratch.x, settings.mean, settings.inverse
    rows_a_tile = max(1, colour.TILE // pitch)
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
                colour.towards(r, g, b, factor, luma)
            for k in range(i, j):
                colour.apply(ops[k], r, g, b, factors[k])
            if j == count:
                _write(x, out, size, pitch, first, end, vflip, turns, mean, inverse)
            elif ops[j] == CONTRAST:
                total += colour.total_luma(r, g, b)
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
    canvases: np.ndarray, rows: Rows, settings: Settings, memory: np.ndarray, lengths: np.ndarray,
    out: np.ndarray, counter: np.ndarray, at_a_time: int,
) -> None:  # fmt: skip
    """Render rows of a table into out [N, 3, S, S], from `counter` on, until there are none left.

    Threads with the same counter divide the work among them.

    Args:
        canvases: [M, R, R, 3] bytes.
        rows: of the table.
        settings: of the spec.
        memory: float32, this thread's own.
        lengths: [9] of its pieces, in the order of `Scratch`.
        out: where to write.
        counter: [1] the next row that no thread has taken.
        at_a_time: rows that a thread takes.
    """
    size = out.shape[2]
    blocks = (size + LANES - 1) // LANES
    crop_step = 0
    while settings.steps[crop_step] != colour.CROP:
        crop_step += 1
    early_steps, late_steps = settings.steps[:crop_step], settings.steps[crop_step + 1 :]
    scratch = _pieces(memory, lengths, blocks)
    ops, factors = np.empty(colour.MOST, np.int64), np.empty(colour.MOST, np.float32)
    while True:
        start = claim(counter, at_a_time)
        if start >= len(rows.source):
            break
        for n in range(start, min(start + at_a_time, len(rows.source))):
            canvas, drawn, box = canvases[rows.source[n]], rows.drawn[n], rows.box[n]
            height, width = np.int64(rows.size[n, 0]), np.int64(rows.size[n, 1])
            count = colour.plan(early_steps, settings.strengths, drawn, ops, factors)
            crop = _crop(canvas, height, width, box, drawn.angle, settings, scratch, ops, factors, count)
            count = colour.plan(late_steps, settings.strengths, drawn, ops, factors)
            make_bands(box[3], size, settings.cubic, drawn.hflip, scratch.line, scratch.starts, scratch.bands)
            _finish(
                crop, settings, scratch, size, blocks * LANES, ops, factors, count, drawn.vflip, drawn.turns, out[n]
            )  # fmt: skip
