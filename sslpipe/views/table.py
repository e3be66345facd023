"""A spec and counters → one row of parameters per view, on the host; a renderer draws nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from sslpipe.views import philox
from sslpipe.views.philox import below, uniform
from sslpipe.views.recipe import Jitter, Range, ViewSpec

_ORDERS = np.array(list(permutations(range(4))), dtype=np.uint8)  # [24, 4]
_ATTEMPTS = 10
_NO_JITTER = Jitter(probability=0)
_BLOCKS = np.array([philox.CROP, philox.FLIPS, philox.COLOUR])


@dataclass(frozen=True, eq=False)
class Table:
    """All that a renderer needs to know beside the pixels and the spec, a row for each view.

    Attributes:
        source: int64 [N], which canvas of the batch.
        size: int32 [N, 2], true height and width of the image on it.
        box: int32 [N, 4], the crop's top, left, height and width in canvas pixels, within `size`.
        angle: float32 [N], degrees counter-clockwise about the crop's centre.
        hflip: bool [N], mirrored left to right.
        vflip: bool [N], upside down.
        turns: uint8 [N], quarter turns counter-clockwise, after the flips.
        jitter: bool [N], colour-jittered or not.
        factors: float32 [N, 4], brightness, contrast, saturation, hue.
        order: uint8 [N, 4], the place of each step's adjustment in `factors`, first to last.
        grey: bool [N], without colour.
        sigma: float32 [N], the blur's standard deviation in pixels; 0 is not blurred.
        solarize: bool [N], values from .5 up inverted.
    """

    source: NDArray[np.int64]
    size: NDArray[np.int32]
    box: NDArray[np.int32]
    angle: NDArray[np.float32]
    hflip: NDArray[np.bool_]
    vflip: NDArray[np.bool_]
    turns: NDArray[np.uint8]
    jitter: NDArray[np.bool_]
    factors: NDArray[np.float32]
    order: NDArray[np.uint8]
    grey: NDArray[np.bool_]
    sigma: NDArray[np.float32]
    solarize: NDArray[np.bool_]

    def __len__(self) -> int:
        """Rows."""
        return len(self.source)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Table:
        """Some of the rows."""
        return Table(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @staticmethod
    def plain(box: NDArray[np.int32], size: NDArray[np.int32]) -> Table:
        """Crops and nothing else: `box` [N, 4] of canvas 0 to N - 1, whose images have `size` [N, 2]."""
        n = len(box)
        return Table(
            source=np.arange(n),
            size=size,
            box=box,
            angle=np.zeros(n, dtype=np.float32),
            hflip=np.zeros(n, dtype=bool),
            vflip=np.zeros(n, dtype=bool),
            turns=np.zeros(n, dtype=np.uint8),
            jitter=np.zeros(n, dtype=bool),
            factors=np.tile(np.array([1, 1, 1, 0], dtype=np.float32), (n, 1)),
            order=np.tile(np.arange(4, dtype=np.uint8), (n, 1)),
            grey=np.zeros(n, dtype=bool),
            sigma=np.zeros(n, dtype=np.float32),
            solarize=np.zeros(n, dtype=bool),
        )

    @staticmethod
    def concatenate(tables: Sequence[Table]) -> Table:
        """The rows of all tables, one after another."""
        return Table(
            **{
                field.name: np.concatenate([getattr(t, field.name) for t in tables])
                for field in fields(Table)
            }
        )


@cache
def _compiles() -> bool:
    return importlib.util.find_spec("numba") is not None


def draw(
    spec: ViewSpec,
    *,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    view: int | NDArray[np.int64],
    size: NDArray[np.int32],
) -> Table:
    """Draw the parameters of one view of each sample; compiled where numba is installed, with the same outcome.

    Args:
        spec: the distributions.
        seed: of the run.
        epoch: counted from 0.
        index: [N] places of the samples in the split.
        view: number of the view in the recipe; or [N], one for each sample.
        size: [N, 2] true height and width of each image.

    Returns:
        A table whose row depends on the spec, (seed, epoch, sample's index, view) and the image's size alone.
    """
    make = _draw_compiled if _compiles() else draw_plainly
    return make(spec, seed=seed, epoch=epoch, index=index, view=view, size=size)


def _draw_compiled(
    spec: ViewSpec,
    *,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    view: int | NDArray[np.int64],
    size: NDArray[np.int32],
) -> Table:
    from sslpipe.views.render.cpu.drawing import draw_rows

    n, jitter = len(index), spec.jitter or _NO_JITTER
    size = np.ascontiguousarray(size, dtype=np.int32)
    box, factors, order = np.empty((n, 4), np.int32), np.empty((n, 4), np.float32), np.empty((n, 4), np.uint8)
    angle, sigma, turns = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.uint8)
    flags = np.empty((5, n), dtype=bool)
    draw_rows(
        np.ascontiguousarray(index, dtype=np.int64), size, np.broadcast_to(np.int64(view), n).copy(),
        np.uint64(seed), epoch, _BLOCKS, np.array(spec.scale), np.array(spec.ratio), np.log(spec.ratio),
        np.array([(-spec.rotation, spec.rotation), *_limits(jitter), spec.blur_sigma]),
        np.array([spec.hflip, spec.vflip, jitter.probability, spec.grey, spec.blur, spec.solarize]),
        spec.quarter_turns, _ORDERS, box, angle, flags, turns, factors, order, sigma,
    )  # fmt: skip
    hflip, vflip, jittered, grey, solarize = flags
    return Table(
        source=np.arange(n), size=size, box=box, angle=angle, hflip=hflip, vflip=vflip, turns=turns,
        jitter=jittered, factors=factors, order=order, grey=grey, sigma=sigma, solarize=solarize,
    )  # fmt: skip


def draw_plainly(
    spec: ViewSpec,
    *,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    view: int | NDArray[np.int64],
    size: NDArray[np.int32],
) -> Table:
    """`draw` in plain numpy: what it means."""

    def words(first: int, count: int) -> NDArray[np.uint64]:
        return philox.words(index, seed=seed, epoch=epoch, view=view, first=first, count=count)

    flips = words(philox.FLIPS, 1)
    colour = words(philox.COLOUR, 3)
    u = uniform(colour)
    jitter = spec.jitter or _NO_JITTER
    blurred = u[:, 7] < spec.blur
    return Table(
        source=np.arange(len(index)),
        size=np.asarray(size, dtype=np.int32),
        box=_boxes(words(philox.CROP, _ATTEMPTS).reshape(-1, _ATTEMPTS, 4), size, spec.scale, spec.ratio),
        angle=_between((-spec.rotation, spec.rotation), uniform(flips[:, 2])),
        hflip=uniform(flips[:, 0]) < spec.hflip,
        vflip=uniform(flips[:, 1]) < spec.vflip,
        turns=(below(flips[:, 3], 4) * spec.quarter_turns).astype(np.uint8),
        jitter=u[:, 0] < jitter.probability,
        factors=_factors(jitter, u[:, 1:5]),
        order=_ORDERS[below(colour[:, 5], 24)],
        grey=u[:, 6] < spec.grey,
        sigma=np.where(blurred, _between(spec.blur_sigma, u[:, 8]), np.float32(0)),
        solarize=u[:, 9] < spec.solarize,
    )


def _between(limits: Range, u: NDArray[np.float64]) -> NDArray[np.float32]:
    low, high = limits
    return (low + (high - low) * u).astype(np.float32)


def _limits(jitter: Jitter) -> list[Range]:
    """The ranges of the four factors, as torchvision's ColorJitter."""
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    return [(max(0.0, 1 - strength), 1 + strength) for strength in strengths] + [(-jitter.hue, jitter.hue)]


def _factors(jitter: Jitter, u: NDArray[np.float64]) -> NDArray[np.float32]:
    """[N, 4] factors."""
    return np.stack([_between(limit, u[:, column]) for column, limit in enumerate(_limits(jitter))], axis=1)


def _boxes(
    word: NDArray[np.uint64], size: NDArray[np.int32], scale: Range, ratio: Range
) -> NDArray[np.int32]:
    """[N, 4] crops by torchvision's RandomResizedCrop: the first of ten tries that fits, else the centre.

    Args:
        word: [N, 10, 4] for area, aspect, top and left of each try.
        size: [N, 2] height and width.
        scale: of the area.
        ratio: of the aspect, width over height.
    """
    limit = np.asarray(size, dtype=np.int64)  # [N, 2]
    u = uniform(word[..., :2])
    area = limit.prod(axis=1)[:, None] * (scale[0] + (scale[1] - scale[0]) * u[..., 0])  # [N, 10]
    low, high = np.log(ratio)
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


def _central(limit: NDArray[np.int64], ratio: Range) -> NDArray[np.int64]:
    """[N, 2] sides of the largest box of the image's own aspect, brought within `ratio`."""
    height, width = limit[:, 0], limit[:, 1]
    aspect = width / height
    narrow, wide = aspect < ratio[0], aspect > ratio[1]
    h = np.where(narrow, np.rint(width / ratio[0]), height)
    w = np.where(wide, np.rint(height * ratio[1]), width)
    # Beyond torchvision: a ratio far below 1 would round a side to 0 or, by a half, past the image.
    return np.clip(np.stack((h, w), axis=1), 1, limit).astype(np.int64)
