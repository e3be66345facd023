"""A spec and counters → a table of parameters, drawn on the host; a renderer draws nothing.

What is drawn for each operation stands in the rows of `sslpipe.views.operations`; here is how. Where numba is installed
compiled loops do it, with the same outcome and tens of times as fast: at 32 pixels it would else take longer than
rendering.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sslpipe.views import philox
from sslpipe.views.operations import COLUMNS, ViewSpec
from sslpipe.views.philox import below, uniform
from sslpipe.views.table import Table, records

_ATTEMPTS = 10  # at a crop, before it is the image's centre
_WORDS = np.array([column.words for column in COLUMNS])  # [C, 2] of the switch and of the value
_BLOCKS = np.unique(_WORDS // 4)  # the blocks of four words that any column needs
_PLACES = np.searchsorted(_BLOCKS, _WORDS // 4) * 4 + _WORDS % 4  # of `_WORDS` in those blocks


class _Distributions(NamedTuple):
    """What a spec says of the numbers that are drawn."""

    crop: NDArray[np.float64]  # [3, 2] limits of the area's fraction, of width / height, and of its logarithm
    columns: NDArray[np.float64]  # [C, 4] chance, lower limit, upper limit and rest of each column


@lru_cache(maxsize=256)
def _distributions(spec: ViewSpec) -> _Distributions:
    return _Distributions(
        crop=np.array((spec.scale, spec.ratio, np.log(spec.ratio))),
        columns=np.array([(column.chance(spec), *column.limits(spec), column.rest) for column in COLUMNS]),
    )


def draw(
    spec: ViewSpec, *, seed: int, epoch: int, index: NDArray[np.int64], view: int | NDArray[np.int64],
    size: NDArray[np.int32],
) -> Table:  # fmt: skip
    """Draw the parameters of one view of each sample.

    Args:
        spec: the distributions.
        seed, epoch, index, view: as in `philox.words`.
        size: [N, 2] true height and width of each image.

    Returns:
        A table whose row depends on the spec, (seed, epoch, sample's index, view) and the image's size alone.
    """
    n, size = len(index), np.ascontiguousarray(size, dtype=np.int32)
    crop, columns = _distributions(spec)
    if _compiles():
        from sslpipe.views.render.cpu import drawing  # numba may be missing

        index, numbers = np.ascontiguousarray(index, np.int64), np.full(n, view, dtype=np.int64)
        box, values = np.empty((n, 4), dtype=np.int32), np.empty((len(COLUMNS), n))
        drawing.draw(
            index, numbers, np.uint64(seed), epoch, size, philox.CROP, crop, _BLOCKS, _PLACES, columns, box, values
        )  # fmt: skip
    else:

        def words(first: int, count: int) -> NDArray[np.uint64]:
            return philox.words(index, seed=seed, epoch=epoch, view=view, first=first, count=count)

        box = _boxes(words(philox.CROP, _ATTEMPTS).reshape(-1, _ATTEMPTS, 4), size, crop)
        values = _columns(np.concatenate([words(int(block), 1) for block in _BLOCKS], axis=1), columns)
    return Table(source=np.arange(n), size=size, box=box, drawn=records(values))


@cache
def _compiles() -> bool:
    return importlib.util.find_spec("numba") is not None


def _columns(word: NDArray[np.uint64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """[C, N] values of the columns from the words of `_BLOCKS`, [N, W]."""
    switch, place = uniform(word.T[_PLACES.T])  # [C, N] each
    chance, low, high, rest = columns.T[:, :, None]
    return np.where(switch < chance, low + (high - low) * place, rest)


def _boxes(word: NDArray[np.uint64], size: NDArray[np.int32], crop: NDArray[np.float64]) -> NDArray[np.int32]:
    """[N, 4] crops by torchvision's RandomResizedCrop: the first of ten tries that fits, else the centre.

    The words [N, 10, 4] are for area, aspect, top and left of each try; sizes are [N, 2] height and width.
    """
    scale, ratio, (low, high) = crop
    limit = np.asarray(size, dtype=np.int64)  # [N, 2]
    u = uniform(word[..., :2])
    area = limit.prod(axis=1)[:, None] * (scale[0] + (scale[1] - scale[0]) * u[..., 0])  # [N, 10]
    aspect = np.exp(low + (high - low) * u[..., 1])
    # np.rint rounds halves to even, as Python's round does.
    sides = np.rint(np.sqrt(np.stack((area / aspect, area * aspect), axis=-1))).astype(np.int64)  # [N, 10, 2]
    fits = ((sides > 0) & (sides <= limit[:, None])).all(axis=-1)  # [N, 10]
    row, attempt = np.arange(len(limit)), fits.argmax(axis=1)  # the first that fits
    side = sides[row, attempt]
    corner = below(word[row, attempt, 2:], np.maximum(limit - side + 1, 1))
    fallback = _central(limit, ratio)
    found = fits.any(axis=1)[:, None]
    side = np.where(found, side, fallback)
    corner = np.where(found, corner, (limit - side) // 2)
    return np.concatenate((corner, side), axis=1).astype(np.int32)


def _central(limit: NDArray[np.int64], ratio: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N, 2] sides of the largest box of the image's own aspect, brought within `ratio`."""
    height, width = limit[:, 0], limit[:, 1]
    aspect = width / height
    narrow, wide = aspect < ratio[0], aspect > ratio[1]
    h = np.where(narrow, np.rint(width / ratio[0]), height)
    w = np.where(wide, np.rint(height * ratio[1]), width)
    # Beyond torchvision: a ratio far below 1 would round a side to 0 or, by a half, past the image.
    return np.clip(np.stack((h, w), axis=1), 1, limit).astype(np.int64)
