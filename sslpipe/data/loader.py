"""Batches of a split: seeded, each image exactly once an epoch, resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from sslpipe.data.batch import Batch
from sslpipe.data.threads import ordered_map
from sslpipe.errors import UserError

_AHEAD = 2  # batches made while one is trained on


class Reader(Protocol):
    """Random access to a split. `resident` has the one there is; others hold less in memory."""

    @property
    def resolution(self) -> int:
        """The canvas side R."""
        ...

    @property
    def labels(self) -> Tensor:
        """The classes, int64 [N], -1 for none."""
        ...

    @property
    def keys(self) -> list[str]:
        """The names the images had in the source, by place."""
        ...

    def __len__(self) -> int:
        """The number of images, N."""
        ...

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The images at these places, int64 [n], in this order."""
        ...


def open_split(folder: Path, split: str) -> Reader:
    """A reader for `train` or `test` of a folder of shards; their digests are checked.

    Raises:
        UserError: the shards are missing, damaged, or do not fit in memory.
    """
    from sslpipe.data.resident import Resident

    return Resident(folder, split)


class Loader:
    """Batches of a reader's images.

    A batch is the same set of images whatever the number of ranks: each rank takes its slice of it.

    Args:
        reader: the split.
        batch_size: images a batch over all ranks together.
        seed: with the epoch's number it decides the order; nothing else does.
        shuffle: draw a new order each epoch; else the order is that of the shards.
        drop_last: leave out the rest that does not fill a batch. Else the last batch is smaller, and with
            several ranks the last of them may have few or none of it.
        rank: this process, 0 to `world_size` - 1.
        world_size: processes that share each batch.

    Raises:
        UserError: the split is smaller than one batch (with `drop_last`), or ranks cannot share it evenly.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch_size {batch_size}, rank {rank} of {world_size} make no sense")
        if batch_size % world_size:
            raise UserError(f"batch_size {batch_size} cannot be shared evenly by {world_size} processes")
        if drop_last and len(reader) < batch_size:
            raise UserError(
                f"batch_size {batch_size} is more than the {len(reader)} images there are: lower it"
            )
        self.reader, self.batch_size, self.seed = reader, batch_size, seed
        self.shuffle, self.drop_last, self.rank, self.world_size = shuffle, drop_last, rank, world_size

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self.reader), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> np.ndarray:
        """The places of all images in this epoch's order, int64 [N], the same on all ranks."""
        number = len(self.reader)
        if not self.shuffle:
            return np.arange(number)
        # Sorting raw words: numpy promises never to change these, but not what `permutation` makes of them.
        key = np.array([self.seed, epoch], dtype=np.uint64)
        return np.argsort(np.random.Philox(key=key).random_raw(number), kind="stable")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's part of the batches `start` … `steps` - 1 of an epoch; a thread makes the next ones.

        Closing the iterator ends its thread; what the reader raises is raised here.
        """
        return ordered_map(self.reader.gather, self._places(epoch, start), threads=1, ahead=_AHEAD)

    def _places(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        order, share = self.order(epoch), self.batch_size // self.world_size
        for step in range(start, self.steps):
            first = step * self.batch_size
            batch = order[first : first + self.batch_size]
            yield batch[self.rank * share : (self.rank + 1) * share]
