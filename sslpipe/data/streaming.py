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

    Args:
        folder: a folder of shards with its manifest.
        split: `train` or `test`.
        threads: that decode; None for one a core.

    Raises:
        UserError: the manifest or the index is missing or damaged.
    """

    def __init__(self, folder: Path, split: str, threads: int | None = None) -> None:
        super().__init__(folder, split)
        self._threads = threads or cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._buffers = Buffers()

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The images at these places, int64 [n] in 0 … N - 1, in this order.

        Raises:
            IndexError: a place is outside the split.
            ShardError: a shard is missing, damaged or not what the manifest says.
        """
        index, side = self._places(index), self.resolution
        places = index.numpy()
        pixels = self._buffers.take((len(places), side, side, 3), torch.uint8, torch.contiguous_format)
        self._canvases.fill(places, pixels.numpy(), self._pool, self._threads)
        return Batch(pixels=pixels, size=self.sizes_of(places), index=index, label=self.labels[index])
