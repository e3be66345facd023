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

    def __init__(self, reader: Reader, places: Tensor) -> None:
        self.reader, self.places, self.resolution = reader, places.numpy(), reader.resolution
        self.labels = reader.labels[places]
        self.keys = [reader.keys[place] for place in self.places]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def blocks(self) -> np.ndarray:
        """All of it is mixed at once."""
        return np.array([0, len(self)])

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The canvases at these places of the subset; `Batch.index` keeps the places in the whole split."""
        return self.reader.gather(self.places[np.asarray(index)])
