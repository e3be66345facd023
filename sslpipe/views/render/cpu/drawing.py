"""The table's rows as one compiled loop: the very numbers of `table.draw_plainly`, tens of times as fast.

At 32 pixels drawing a view's parameters would else take longer than rendering it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sslpipe.core.numba import entry, exact

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))


@exact
def _block(
    number: int, place: np.uint64, epoch: int, view: int, seed: np.uint64, word: NDArray[np.uint64]
) -> None:
    """One block of four random words: Philox4x32-10, see philox.py."""
    c0, c1, c2, c3 = np.uint64(number | view << 20), place & _LOW, place >> _HALF, np.uint64(epoch)
    k0, k1 = seed & _LOW, seed >> _HALF
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    word[0], word[1], word[2], word[3] = c0, c1, c2, c3


@exact
def _uniform(word: np.uint64) -> float:
    return np.float64(word) * 2.0**-32


@exact
def _below(word: np.uint64, bound: int) -> np.int64:
    return np.int64((word * np.uint64(bound)) >> _HALF)


@exact
def _box(
    height: int,
    width: int,
    place: np.uint64,
    epoch: int,
    view: int,
    seed: np.uint64,
    first: int,
    scale: NDArray[np.float64],
    ratio: NDArray[np.float64],
    logs: NDArray[np.float64],
    word: NDArray[np.uint64],
    box: NDArray[np.int32],
) -> None:
    """torchvision's RandomResizedCrop: the first of ten tries that fits, else the centre; see `table._boxes`."""
    for attempt in range(10):
        _block(first + attempt, place, epoch, view, seed, word)
        area = np.float64(height * width) * (scale[0] + (scale[1] - scale[0]) * _uniform(word[0]))
        aspect = math.exp(logs[0] + (logs[1] - logs[0]) * _uniform(word[1]))
        h, w = int(np.rint(math.sqrt(area / aspect))), int(np.rint(math.sqrt(area * aspect)))
        if 0 < h <= height and 0 < w <= width:
            box[0], box[1] = _below(word[2], height - h + 1), _below(word[3], width - w + 1)
            box[2], box[3] = h, w
            return
    aspect = width / height
    high, wide = float(height), float(width)
    if aspect < ratio[0]:
        high = np.rint(width / ratio[0])
    if aspect > ratio[1]:
        wide = np.rint(height * ratio[1])
    h, w = int(min(max(high, 1.0), height)), int(min(max(wide, 1.0), width))
    box[0], box[1], box[2], box[3] = (height - h) // 2, (width - w) // 2, h, w


@entry
def draw_rows(
    index: NDArray[np.int64],
    size: NDArray[np.int32],
    views: NDArray[np.int64],
    seed: np.uint64,
    epoch: int,
    blocks: NDArray[np.int64],
    scale: NDArray[np.float64],
    ratio: NDArray[np.float64],
    logs: NDArray[np.float64],
    limits: NDArray[np.float64],
    chances: NDArray[np.float64],
    quarter_turns: bool,
    orders: NDArray[np.uint8],
    box: NDArray[np.int32],
    angle: NDArray[np.float32],
    flags: NDArray[np.bool_],
    turns: NDArray[np.uint8],
    factors: NDArray[np.float32],
    order: NDArray[np.uint8],
    sigma: NDArray[np.float32],
) -> None:
    """Fill in a table's rows.

    Args:
        index: [N] places of the samples.
        size: [N, 2] height and width of each image.
        views: [N] number of the view.
        seed: of the run.
        epoch: counted from 0.
        blocks: first blocks of crop, flips and colour.
        scale, ratio: of the crop; `logs` are ratio's logarithms.
        limits: [6, 2] of angle, brightness, contrast, saturation, hue, sigma.
        chances: of hflip, vflip, jitter, grey, blur, solarize.
        quarter_turns: whether to turn.
        orders: [24, 4].
        box, angle, turns, factors, order, sigma: to fill in, as in `Table`.
        flags: to fill in, [5, N]: hflip, vflip, jitter, grey, solarize.
    """
    word = np.empty(4, dtype=np.uint64)
    colour = np.empty(12, dtype=np.uint64)
    for n in range(len(index)):
        place, view = np.uint64(index[n]), views[n]
        _box(size[n, 0], size[n, 1], place, epoch, view, seed, blocks[0], scale, ratio, logs, word, box[n])
        _block(blocks[1], place, epoch, view, seed, word)
        flags[0, n] = _uniform(word[0]) < chances[0]
        flags[1, n] = _uniform(word[1]) < chances[1]
        angle[n] = limits[0, 0] + (limits[0, 1] - limits[0, 0]) * _uniform(word[2])
        turns[n] = _below(word[3], 4) if quarter_turns else 0
        for k in range(3):
            _block(blocks[2] + k, place, epoch, view, seed, colour[4 * k : 4 * k + 4])
        flags[2, n] = _uniform(colour[0]) < chances[2]
        for k in range(4):
            low, high = limits[1 + k, 0], limits[1 + k, 1]
            factors[n, k] = low + (high - low) * _uniform(colour[1 + k])
        order[n] = orders[_below(colour[5], 24)]
        flags[3, n] = _uniform(colour[6]) < chances[3]
        blurred = _uniform(colour[7]) < chances[4]
        sigma[n] = limits[5, 0] + (limits[5, 1] - limits[5, 0]) * _uniform(colour[8]) if blurred else 0.0
        flags[4, n] = _uniform(colour[9]) < chances[5]
