"""What all readers of a split have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslpipe.data.canvases import Canvases


class SplitReader:
    """A split's names, labels and blocks; see `loader.Reader`."""

    def __init__(self, folder: Path, split: str) -> None:
        self._canvases = Canvases(folder, split)
        self.manifest, self.resolution = self._canvases.manifest, self._canvases.resolution
        self.labels = torch.from_numpy(self._canvases.rows["label"].astype(np.int64))

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

    def sizes_of(self, places: np.ndarray) -> Tensor:
        """Heights and widths, int32 [n, 2]."""
        rows = self._canvases.rows[places]
        return torch.from_numpy(np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32))

    def _places(self, index: np.ndarray | Tensor) -> Tensor:
        """Places as int64 [n].

        Raises:
            IndexError: one is outside the split.
        """
        places = torch.as_tensor(index, dtype=torch.int64)
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < len(self):
            raise IndexError(f"places must be in 0 to {len(self) - 1}")
        return places
