"""Drawing a table's parameters by compiled loops: see `sslpipe.views.drawing`."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sslpipe.core.numba import entry, exact

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))


class Name(NamedTuple):
    """What the random numbers of one view of one sample are a function of."""

    sample: np.uint64  # its index in the split
    number: int  # of the view in its recipe
    seed: np.uint64  # of the run
    epoch: int  # counted from 0


@exact
def _block(block: int, name: Name, word: NDArray[np.uint64]) -> None:
    """One block of four random words: Philox4x32-10, see philox.py."""
    c0, c1 = np.uint64(block | name.number << 20), name.sample & _LOW
    c2, c3 = name.sample >> _HALF, np.uint64(name.epoch)
    k0, k1 = name.seed & _LOW, name.seed >> _HALF
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
    name: Name, height: int, width: int, first: int, limits: NDArray[np.float64], word: NDArray[np.uint64],
    box: NDArray[np.int32],
) -> None:  # fmt: skip
    """torchvision's RandomResizedCrop: the first of ten tries that fits, else the centre."""
    scale, ratio, logs = limits[0], limits[1], limits[2]
    for attempt in range(10):
        _block(first + attempt, name, word)
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
def draw(
    index: NDArray[np.int64], view: NDArray[np.int64], seed: np.uint64, epoch: int, size: NDArray[np.int32],
    first: int, limits: NDArray[np.float64], blocks: NDArray[np.int64], places: NDArray[np.int64],
    columns: NDArray[np.float64], box: NDArray[np.int32], values: NDArray[np.float64],
) -> None:  # fmt: skip
    """Draw crops, and the columns of the operations.

    Args:
        index, view, seed, epoch: as in `philox.words`, N samples.
        size: [N, 2] height and width of each image.
        first: block of random words for the crop.
        limits: [3, 2] of the area's fraction, of the aspect, and of the aspect's logarithm.
        blocks: [B] of random words for the columns.
        places: [C, 2] where in these blocks each column has its switch and its value.
        columns: [C, 4] chance, lower limit, upper limit and rest of each column.
        box: [N, 4] to fill in, as in `Table`.
        values: [C, N] to fill in.
    """
    word = np.empty(4 * max(1, len(blocks)), dtype=np.uint64)
    for n in range(len(box)):
        name = Name(np.uint64(index[n]), view[n], seed, epoch)
        _box(name, size[n, 0], size[n, 1], first, limits, word, box[n])
        for k in range(len(blocks)):
            _block(blocks[k], name, word[4 * k : 4 * k + 4])
        for c in range(len(places)):
            chance, low, high, value = columns[c]
            if _uniform(word[places[c, 0]]) < chance:
                value = low + (high - low) * _uniform(word[places[c, 1]])
            values[c, n] = value
