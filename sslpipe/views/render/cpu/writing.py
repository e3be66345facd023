"""Finished rows into the view: normalised, upside down, turned by quarters."""

from __future__ import annotations

import numpy as np

from sslpipe.core.numba import pixels
from sslpipe.views.render.cpu.vectors import wide


@pixels
def write(
    x: np.ndarray,
    out: np.ndarray,
    size: int,
    pitch: int,
    first: int,
    end: int,
    vflip: bool,
    mean: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """Normalise rows into out [3, S, S], upside down where the view drew it."""
    wide()
    for c in range(3):
        m, s = mean[c], inverse[c]
        for row in range(first, end):
            source = x[(c * size + row) * pitch :][:size]
            target = out[c, size - 1 - row if vflip else row]
            for i in range(size):
                target[i] = (source[i] - m) * s


@pixels
def write_turned(
    x: np.ndarray,
    out: np.ndarray,
    size: int,
    pitch: int,
    first: int,
    end: int,
    vflip: bool,
    turns: int,
    mean: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """As `write`, then turned counter-clockwise by one to three quarters."""
    last = size - 1
    for c in range(3):
        m, s = mean[c], inverse[c]
        for row in range(first, end):
            source = x[(c * size + row) * pitch :][:size]
            y = last - row if vflip else row
            if turns == 1:
                for i in range(size):
                    out[c, last - i, y] = (source[i] - m) * s
            elif turns == 2:
                for i in range(size):
                    out[c, last - y, last - i] = (source[i] - m) * s
            else:
                for i in range(size):
                    out[c, i, last - y] = (source[i] - m) * s
