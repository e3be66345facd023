"""Gaussian blur: across into a picture with mirrored rows above and below, then down."""

import math

import numpy as np

from sslpipe.core.numba import exact, pixels
from sslpipe.views.render.cpu.vectors import LANES, smooth, smooth_4

_ZERO = np.float32(0)
_NEGLIGIBLE = np.float32(2e-8)  # a weight below this changes nothing


@exact
def gaussian(sigma: np.float32, half: int, weights: np.ndarray) -> int:
    """Half a normalised Gaussian, its centre first; returns how far it reaches before it is negligible."""
    total = _ZERO
    for d in range(half + 1):
        ratio = np.float32(d) / sigma
        weights[d] = np.float32(math.exp(np.float32(-0.5) * (ratio * ratio)))
        total += weights[d] * np.float32(1 if d == 0 else 2)
    reach = 0
    for d in range(half + 1):
        weights[d] /= total
        if weights[d] > _NEGLIGIBLE:
            reach = d
    return reach


@pixels
def _smooth_row(
    out: np.ndarray, to: int, source: np.ndarray, at: int, step: int, pitch: int, weights: np.ndarray, reach: int
) -> None:  # fmt: skip
    """A row of `pitch` outputs, filtered along `step`."""
    wide = pitch // (4 * LANES) * (4 * LANES)
    for i in range(0, wide, 4 * LANES):
        smooth_4(out, to + i, source, at + i, step, weights, reach)
    for i in range(wide, pitch, LANES):
        smooth(out, to + i, source, at + i, step, weights, reach)


@pixels
def blur_across(
    x: np.ndarray, y: np.ndarray, size: int, pitch: int, reach: int, weights: np.ndarray, line: np.ndarray
) -> None:
    """x [3 · size · pitch] → y [3 · (size + 2 · reach) · pitch]: rows smoothed, mirrored rows added above and below."""
    end = size - 1
    for c in range(3):
        top = c * (size + 2 * reach)
        for row in range(size):
            source, inside = x[(c * size + row) * pitch :][:size], line[reach:][:size]
            for i in range(size):
                inside[i] = source[i]
            for d in range(1, reach + 1):
                line[reach - d] = source[end - abs(end - d)]
                line[reach + end + d] = source[abs(end - d)]
            _smooth_row(y, (top + reach + row) * pitch, line, reach, 1, pitch, weights, reach)
        first, last = top + reach, top + reach + end
        for d in range(1, reach + 1):
            to, at = (first - d) * pitch, (last - abs(end - d)) * pitch
            y[to : to + pitch] = y[at : at + pitch]
            to, at = (last + d) * pitch, (first + abs(end - d)) * pitch
            y[to : to + pitch] = y[at : at + pitch]


@pixels
def blur_down(
    y: np.ndarray, x: np.ndarray, size: int, pitch: int, reach: int, weights: np.ndarray, first: int, end: int
) -> None:
    """Rows `first` to `end` of x from y, as `blur_across` left it."""
    for c in range(3):
        for row in range(first, end):
            at = (c * (size + 2 * reach) + reach + row) * pitch
            to = (c * size + row) * pitch
            _smooth_row(x, to, y, at, pitch, pitch, weights, reach)
            x[to + size : to + pitch] = _ZERO  # or it would count in the mean of a later contrast
