"""Counter-based random numbers: a number is a function of its name, not of what was drawn before it.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
vectorised over counters. The known-answer vectors of its authors' library are in the tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and √3 - 1
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

# First blocks of what is drawn for a view: fixed, so that switching one thing on moves nothing else.
CROP, FLIPS, COLOUR, OTHERS, MASK = 0, 16, 20, 32, 64


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten rounds of Philox4x32: a counter [..., 4] and a key → random words [..., 4], all below 2³², in uint64."""
    c0, c1, c2, c3 = (counter[..., word].astype(np.uint64) for word in range(4))
    for turn in range(10):
        k0, k1 = (np.uint64((key[i] + turn * _WEYL[i]) & 0xFFFFFFFF) for i in range(2))
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
    return np.stack((c0, c1, c2, c3), axis=-1)


def words(
    index: NDArray[np.int64], *, seed: int, epoch: int, view: int | NDArray[np.int64], first: int, count: int
) -> NDArray[np.uint64]:
    """Random words that belong to (seed, epoch, sample, view) and nothing else.

    Args:
        index: [N] of the samples in the split.
        seed: of the run, below 2⁶⁴.
        epoch: counted from 0, below 2³².
        view: number of the view in its recipe, below 2¹²; or [N], one for each sample.
        first, count: the first block of four words, and how many; blocks are below 2²⁰.

    Returns:
        [N, 4 · count] words below 2³², in uint64.
    """
    number = np.asarray(view, dtype=np.int64).reshape(-1, 1)  # [N, 1] or [1, 1]
    in_range = not number.size or (number.min() >= 0 and number.max() < 1 << 12)
    if not (0 <= seed < 1 << 64 and 0 <= epoch < 1 << 32 and in_range and first + count <= 1 << 20):
        raise ValueError(f"seed {seed}, epoch {epoch}, view {view} or block {first + count} is out of range")
    sample = index.astype(np.uint64)[:, None]  # [N, 1]
    block = np.arange(first, first + count) | number << 20
    counter = np.empty((len(index), count, 4), dtype=np.uint64)
    counter[..., 0] = block
    counter[..., 1] = sample & _LOW
    counter[..., 2] = sample >> _HALF
    counter[..., 3] = epoch
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(len(index), 4 * count)


def uniform(word: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as numbers in [0, 1)."""
    return word.astype(np.float64) * 2.0**-32


def below(word: NDArray[np.uint64], bound: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Words as whole numbers in [0, bound), for bounds up to 2³²; each as likely within bound / 2³²."""
    return ((word * np.asarray(bound).astype(np.uint64)) >> _HALF).astype(np.int64)
