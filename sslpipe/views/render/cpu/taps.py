"""Antialiased resizing: the weights of the pixels that one output pixel is made of, as `reference.resize_taps`."""

import math

import numpy as np

from sslpipe.core.numba import exact
from sslpipe.views.render.cpu.vectors import LANES

_ONE, _ZERO = np.float32(1), np.float32(0)


@exact
def _tap(place: int, centre: np.float32, inverse: np.float64, cubic: bool) -> np.float32:
    """The weight of an input pixel at a distance from an output pixel's centre, before the weights' sum is made 1."""
    distance = np.float32(abs(np.float32((np.float64(np.float32(place) - centre) + 0.5) * inverse)))
    if not cubic:
        return max(_ONE - distance, _ZERO)
    if distance >= np.float32(2):
        return _ZERO
    if distance < _ONE:
        return (np.float32(1.5) * distance - np.float32(2.5)) * distance * distance + _ONE
    return (
        (np.float32(-0.5) * distance + np.float32(2.5)) * distance - np.float32(4)
    ) * distance + np.float32(2)


@exact
def taps(output: int, length: int, size: int, cubic: bool, weights: np.ndarray) -> tuple[int, int]:
    """One output pixel of `size` that a piece of `length` is resized to: its first tap, and how many in `weights`."""
    scale = np.float32(length) / np.float32(size)
    stretch = max(scale, _ONE)
    inverse = np.float64(_ONE / stretch)
    centre = np.float32(np.float64(scale) * (np.float64(output) + 0.5))
    # A hair more than the filter's reach, so that no rounding loses a tap; a tap too many has weight zero.
    reach = np.float64(stretch) * (2.0 if cubic else 1.0) + 0.01
    first = max(math.ceil(np.float64(centre) - 0.5 - reach), 0)
    end = min(math.floor(np.float64(centre) - 0.5 + reach) + 1, length)
    total = _ZERO
    for place in range(first, end):
        weight = _tap(place, centre, inverse, cubic)
        weights[place - first] = weight
        total += weight
    for tap in range(end - first):
        weights[tap] /= total
    return first, end - first


@exact
def make_bands(
    length: int, size: int, cubic: bool, mirrored: bool, line: np.ndarray, starts: np.ndarray, bands: np.ndarray
) -> None:  # fmt: skip
    """Weights for `weigh`: block k of LANES outputs reads `starts[k, 1]` inputs from `starts[k, 0]` on; its weights
    are at `starts[k, 2]` of `bands`. `mirrored`: the outputs in opposite order.
    """  # fmt: skip
    at = 0
    for block in range((size + LANES - 1) // LANES):
        here = min(LANES, size - block * LANES)
        one, other = block * LANES, block * LANES + here - 1  # the block's ends lie furthest apart
        if mirrored:
            one, other = size - 1 - other, size - 1 - one
        low, _ = taps(one, length, size, cubic, line)
        last, count = taps(other, length, size, cubic, line)
        span = last + count - low
        for place in range(at, at + span * LANES):
            bands[place] = _ZERO
        for lane in range(here):
            output = block * LANES + lane
            first, count = taps(size - 1 - output if mirrored else output, length, size, cubic, line)
            for tap in range(count):
                bands[at + (first + tap - low) * LANES + lane] = line[tap]
        starts[block, 0], starts[block, 1], starts[block, 2] = low, span, at
        at += span * LANES
