"""A split read from its shards as it is needed: any number of images, no more in memory than the batches in hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslpipe.data.batch import Batch
from sslpipe.data.buffers import Buffers
from sslpipe.data.canvases import Canvases
from sslpipe.data.threads import cores


class Streaming:
    """The images of one split as canvases, decoded when asked for.

    Args:
        folder: a folder of shards with its manifest.
        split: `train` or `test`.
        threads: that decode; None for one a core.

    Raises:
        UserError: the manifest or the index is missing or damaged.
    """

    def __init__(self, folder: Path, split: str, threads: int | None = None) -> None:
        self._canvases = Canvases(folder, split)
        self.manifest, self.resolution = self._canvases.manifest, self._canvases.resolution
        self.labels = torch.from_numpy(self._canvases.rows["label"].astype(np.int64))
        self._pool = ThreadPoolExecutor(threads or cores(), thread_name_prefix="decode")
        self._buffers = Buffers()

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.labels)

    @property
    def keys(self) -> list[str]:
        """The names the images had in the source, by place."""
        return self._canvases.keys

    @property
    def blocks(self) -> np.ndarray:
        """Where each shard's images begin, and N; int64 [shards + 1]."""
        return self._canvases.blocks

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The images at these places, int64 [n] in 0 … N - 1, in this order.

        Raises:
            IndexError: a place is outside the split.
            ShardError: a shard is missing, damaged or not what the manifest says.
        """
        places = torch.as_tensor(index, dtype=torch.int64)
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < len(self):
            raise IndexError(f"places must be in 0 to {len(self) - 1}")
        side, rows = self.resolution, self._canvases.rows[places.numpy()]
        pixels = self._buffers.take((len(places), side, side, 3), torch.uint8, torch.contiguous_format)
        self._canvases.fill(places.numpy(), pixels.numpy(), self._pool)
        size = np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32)
        return Batch(pixels=pixels, size=torch.from_numpy(size), index=places, label=self.labels[places])
