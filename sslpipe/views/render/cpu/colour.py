"""Colour operations: which of them a view drew, and what they do to rows of pixels and to whole pictures, in place."""

from typing import Any

import numpy as np

from sslpipe.core.numba import exact, pixels, summing
from sslpipe.views.render.cpu.vectors import wide

# What a view may go through. The first four are jitter's, in the order of `Table.factors`.
BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, BLUR, SOLARIZE = range(7)
CROP, JITTER = -1, -2  # steps that are no such operation
#: The steps of `ViewSpec.order`.
STEPS = {"crop": CROP, "jitter": JITTER, "grey": GREY, "blur": BLUR, "solarize": SOLARIZE}
MOST = len(STEPS) + 2  # operations that one view may go through: jitter's are four, and the crop is none
TILE = 2048  # pixels that go through a run of operations together: 3 · 8 kB of float32

_ONE, _ZERO = np.float32(1), np.float32(0)
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)


@exact
def plan(steps: np.ndarray, strengths: np.ndarray, drawn: Any, ops: np.ndarray, factors: np.ndarray) -> int:
    """The operations that a view goes through in some `STEPS`, and the factor of each; returns how many.

    Both are written into [MOST]; `drawn` is the view's row of `Table.drawn`. Adjustments of strength 0 are left out.
    """
    n = 0
    for step in steps:
        if step == JITTER and drawn.jitter:
            for k in range(4):
                kind = drawn.order[k]
                if strengths[kind] != _ZERO:
                    ops[n], factors[n] = kind, drawn.factors[kind]
                    n += 1
        elif step == BLUR and drawn.sigma > _ZERO:
            ops[n], factors[n] = BLUR, drawn.sigma
            n += 1
        elif (step == GREY and drawn.grey) or (step == SOLARIZE and drawn.solarize):
            ops[n] = step
            n += 1
    return n


@pixels
def clamp(value: np.float32) -> np.float32:
    """Into [0, 1]."""
    return min(max(value, _ZERO), _ONE)


@pixels
def _scale(r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32) -> None:
    wide()
    for i in range(r.size):
        r[i], g[i], b[i] = clamp(r[i] * factor), clamp(g[i] * factor), clamp(b[i] * factor)


@pixels
def towards(r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32, mean: np.float32) -> None:
    """Move away from a mean luma: contrast."""
    wide()
    rest = mean * (_ONE - factor)
    for i in range(r.size):
        r[i], g[i], b[i] = (
            clamp(r[i] * factor + rest),
            clamp(g[i] * factor + rest),
            clamp(b[i] * factor + rest),
        )


@pixels
def _saturate(r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32) -> None:
    wide()
    for i in range(r.size):
        rest = (r[i] * _RED + g[i] * _GREEN + b[i] * _BLUE) * (_ONE - factor)
        r[i], g[i], b[i] = (
            clamp(r[i] * factor + rest),
            clamp(g[i] * factor + rest),
            clamp(b[i] * factor + rest),
        )


@pixels
def _trapezoid(sector: np.float32, value: np.float32, chroma: np.float32) -> np.float32:
    k = sector - np.float32(6) * np.floor(sector * np.float32(1 / 6))
    return value - chroma * clamp(min(k, np.float32(4) - k))


@pixels
def _turn(r: np.ndarray, g: np.ndarray, b: np.ndarray, shift: np.float32) -> None:
    wide()
    turned = shift * np.float32(6)  # in sixths
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        value = max(max(red, green), blue)
        chroma = value - min(min(red, green), blue)
        inverse = _ONE / (chroma if chroma > _ZERO else _ONE)
        sector = (red - green) * inverse + np.float32(4)
        sector = (blue - red) * inverse + np.float32(2) if value == green else sector
        sector = (green - blue) * inverse if value == red else sector
        sector += turned
        r[i] = _trapezoid(sector + np.float32(5), value, chroma)
        g[i] = _trapezoid(sector + np.float32(3), value, chroma)
        b[i] = _trapezoid(sector + _ONE, value, chroma)


@pixels
def _drain(r: np.ndarray, g: np.ndarray, b: np.ndarray) -> None:
    wide()
    for i in range(r.size):
        r[i] = g[i] = b[i] = r[i] * _RED + g[i] * _GREEN + b[i] * _BLUE


@pixels
def _solarize(x: np.ndarray) -> None:
    wide()
    for i in range(x.size):
        x[i] = _ONE - x[i] if x[i] >= np.float32(0.5) else x[i]


@summing
def total_luma(r: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.float32:
    """The sum of the pixels' lumas."""
    wide()
    total = _ZERO
    for i in range(r.size):
        total += r[i] * _RED + g[i] * _GREEN + b[i] * _BLUE
    return total


@pixels
def apply(kind: int, r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32) -> None:
    """Any operation but contrast and blur, which need more than the pixels at hand."""
    if kind == BRIGHTNESS:
        _scale(r, g, b, factor)
    elif kind == SATURATION:
        _saturate(r, g, b, factor)
    elif kind == HUE:
        _turn(r, g, b, factor)
    elif kind == GREY:
        _drain(r, g, b)
    else:
        _solarize(r)
        _solarize(g)
        _solarize(b)


@pixels
def apply_to_whole(x: np.ndarray, count: int, ops: np.ndarray, factors: np.ndarray, n: int) -> None:
    """Operations before the crop: on a whole planar picture of `count` pixels."""
    r, g, b = x[:count], x[count : 2 * count], x[2 * count : 3 * count]
    for k in range(n):
        if ops[k] == CONTRAST:
            total = 0.0
            for start in range(0, count, TILE):
                end = min(start + TILE, count)
                total += total_luma(r[start:end], g[start:end], b[start:end])
            towards(r, g, b, factors[k], np.float32(total / count))
        else:
            apply(ops[k], r, g, b, factors[k])
