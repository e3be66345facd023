"""Crops resized into pictures: each row of a crop is read once, resized across, and kept while output rows need it."""

from typing import NamedTuple

import numpy as np

from sslpipe.core.numba import pixels
from sslpipe.views.render.cpu.source import BYTES, TURNED, Crop, rotate_row, unit
from sslpipe.views.render.cpu.taps import taps
from sslpipe.views.render.cpu.vectors import LANES, blend, blend_4, weigh


class Settings(NamedTuple):
    """What a spec says of all rows of a table."""

    steps: np.ndarray  # numbers of the steps, in the order of work; see `colour.STEPS`
    strengths: np.ndarray  # of jitter's adjustments
    half: int  # length of the blur's kernel on either side of its centre
    cubic: bool  # bicubic, else bilinear
    rotates: bool  # whether crops are turned
    fill: np.float32  # grey level outside the image
    mean: np.ndarray  # of the normalisation
    inverse: np.ndarray  # 1 / std of the normalisation


class Scratch(NamedTuple):
    """A thread's working memory, piece by piece, for views of size x size pixels in rows of `pitch` numbers."""

    x: np.ndarray  # [3 · size · pitch] the view
    y: np.ndarray  # [3 · (size + 2 · half) · pitch] the view on its way through the blur
    ring: np.ndarray  # [slots · 3 · pitch] rows that are resized across, each in its slot
    bands: np.ndarray  # weights of the resize across, for blocks of outputs
    row: np.ndarray  # a row of the crop
    line: np.ndarray  # weights of an output row, or a row that is blurred
    weights: np.ndarray  # of the blur
    image: np.ndarray  # the whole image, where colour comes before the crop
    turned: np.ndarray  # the turned crop, likewise
    starts: np.ndarray  # [blocks, 3] where a block begins to read, how much, and where its weights are


@pixels
def _mix(scratch: Scratch, slots: int, first: int, count: int, size: int, pitch: int, output: int) -> None:
    """Row `output` of the view from `count` rows of the crop that are resized across, from `first` on, in the ring."""
    slot, step = first % slots, 3 * pitch
    wide = pitch // (4 * LANES) * (4 * LANES)
    for c in range(3):
        to, at = (c * size + output) * pitch, c * pitch
        for i in range(0, wide, 4 * LANES):
            blend_4(scratch.x, to + i, scratch.ring, at + i, slot, slots, step, scratch.line, count)
        for i in range(wide, pitch, LANES):
            blend(scratch.x, to + i, scratch.ring, at + i, slot, slots, step, scratch.line, count)


@pixels
def resize(
    crop: Crop, settings: Settings, scratch: Scratch, size: int, pitch: int, ready: int, first: int, end: int
) -> int:
    """Output rows `first` to `end` of a crop, into scratch.x; the bands and starts of the scratch are made.

    The scratch's ring holds the crop's rows that are resized across: `ready` of them so far. Returns how many then.
    """
    data, height, width = crop.canvas.reshape(-1), crop.box[2], crop.box[3]
    starts, bands, row, ring = scratch.starts, scratch.bands, scratch.row, scratch.ring
    slots = ring.size // (3 * pitch)
    for output in range(first, end):
        low, count = taps(output, height, size, settings.cubic, scratch.line)
        while ready < low + count:
            slot, at = (ready % slots) * 3 * pitch, crop.start + ready * crop.step
            if crop.origin == BYTES:
                unit(data[at : at + 3 * width], row)
                for block in range(starts.shape[0]):
                    begin, reach, band = starts[block]
                    weigh(ring, slot + block * LANES, pitch, bands, band, row, 3 * begin, 1, 3, reach)
            else:
                if crop.origin == TURNED:
                    rotate_row(crop, settings.fill, ready, row)
                for block in range(starts.shape[0]):
                    begin, reach, band = starts[block]
                    weigh(
                        ring, slot + block * LANES, pitch, bands, band, crop.picture, at + begin, crop.plane, 1, reach
                    )  # fmt: skip
            ready += 1
        _mix(scratch, slots, low, count, size, pitch, output)
    return ready
