"""Memory for batches on a CPU, used again once nobody holds what was in it.

A fresh buffer of a batch costs as much as filling it: the system hands out zeroed pages one by one. Memory on a
GPU, and memory that is pinned for copies to one, need none of this, since torch's allocators keep it.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
import torch
from numpy.typing import NDArray

_KEPT = 6  # buffers of one size: what is trained on, what comes next, and some to spare
_OURS = 3  # references to an array that is in no tensor: the list's, the loop's and getrefcount's own


class Buffers:
    """Tensors whose memory comes from a few arrays. An array that a living tensor still uses is never given out.

    With `pin` the memory is pinned, so that a copy to a GPU goes on by itself; torch gives it out again after that.
    """

    def __init__(self, pin: bool = False) -> None:
        self._pin = pin
        self._arrays: dict[int, list[NDArray[np.uint8]]] = {}
        self._lock = threading.Lock()

    def take(
        self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
    ) -> torch.Tensor:
        """An uninitialised tensor [N, C, H, W] on the CPU, in `torch.contiguous_format` or `torch.channels_last`."""
        n, c, h, w = shape
        if 0 in shape or self._pin:
            return torch.empty(shape, dtype=dtype, memory_format=memory_format, pin_memory=self._pin)
        with self._lock:  # until the tensor holds the array
            flat = torch.from_numpy(self._array(n * c * h * w * dtype.itemsize)).view(dtype)
        if memory_format == torch.channels_last:
            return flat.view(n, h, w, c).permute(0, 3, 1, 2)
        return flat.view(shape)

    def _array(self, size: int) -> NDArray[np.uint8]:
        kept = self._arrays.setdefault(size, [])
        for array in kept:
            if sys.getrefcount(array) == _OURS:  # torch holds one while any tensor on it lives
                return array
        array = np.empty(size, dtype=np.uint8)
        if len(kept) < _KEPT:
            kept.append(array)
        return array
