"""Finished rows into the view: normalised, upside down, turned by quarters."""

from __future__ import annotations

import numpy as np

from sslpipe.core.numba import pixels
from sslpipe.views.render.cpu.vectors import wide


@pixels
def _normalise(source: np.ndarray, target: np.ndarray, mean: np.float32, inverse: np.float32) -> None:
    wide()
    for i in range(source.size):
        target[i] = (source[i] - mean) * inverse


@pixels
def write(
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
