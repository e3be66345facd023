"""A reader of part of a split."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sslpipe.data.batch import Batch
from sslpipe.data.loader import Reader


def labelled(reader: Reader) -> Reader:
    """The images of a split that have a label."""
    here = reader.labels >= 0
    return reader if here.all() else Subset(reader, here.nonzero()[:, 0])


class Subset:
    """Part of a split, read through the split's reader."""

    def __init__(self, reader: Reader, indices: Tensor) -> None:
        self.reader, self.indices, self.resolution = reader, indices.numpy(), reader.resolution
        self.labels = reader.labels[indices]
        self.keys = [reader.keys[index] for index in self.indices]
        self.blocks = np.array([0, len(indices)])  # all of it is mixed at once

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The canvases of these indices into the subset; `Batch.index` keeps those into the whole split."""
        return self.reader.gather(self.indices[np.asarray(index)])
