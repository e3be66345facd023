"""A split read from its shards as it is needed: any number of images, no more in memory than the batches in hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslpipe.core.threads import cores
from sslpipe.data.batch import Batch
from sslpipe.data.buffers import Buffers
from sslpipe.data.reading import SplitReader


class Streaming(SplitReader):
    """The images of one split as canvases, decoded when asked for.

    `threads` decode, one a core if None. With `pin` batches are in memory from which a GPU copies by itself. All else
    is as in `SplitReader`.
    """

    def __init__(self, folder: Path, split: str, threads: int | None = None, pin: bool = False) -> None:
        super().__init__(folder, split)
        self._threads = threads or cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._buffers = Buffers(pin)

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The images of these indices, int64 [n] in 0 … N - 1, in this order.

        Raises:
            IndexError: one is outside the split.
            ShardError: a shard is missing, damaged or not what the manifest says.
        """
        index, side = self.checked(index), self.resolution
        pixels = self._buffers.take((len(index), side, side, 3), torch.uint8, torch.contiguous_format)
        self.fill(index.numpy(), pixels.numpy(), self._pool, self._threads)
        return Batch(pixels=pixels, size=self.sizes_of(index.numpy()), index=index, label=self.labels[index])
