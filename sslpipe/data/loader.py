"""Batches of a split: seeded, each image exactly once an epoch, resumable at any batch."""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.core.threads import ordered_map
from sslpipe.data import resident
from sslpipe.data.batch import Batch
from sslpipe.data.config import Config
from sslpipe.data.streaming import Streaming
from sslpipe.shards import manifest

_AHEAD = 2  # batches made while one is trained on
_AT_ONCE = 2  # of them at a time: else the threads that decode would wait for the last image of each
_SHARDS = 1 << 32  # the stream that the shards' order is drawn from; those below are for their images
_CACHED = 64 << 20  # bytes of canvases from which a cache of them pays


class Reader(Protocol):
    """Random access to a split: `Resident`, `Streaming`, or a `Subset` of one."""

    resolution: int  # the canvas side R
    labels: Tensor  # the classes, int64 [N], -1 for none
    blocks: np.ndarray  # where each shard's images begin, and N; int64 [shards + 1]

    @property
    def keys(self) -> list[str]:
        """The names the images had in the source, by index."""

    def __len__(self) -> int:
        """The number of images, N."""

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The images of these indices, int64 [n], in this order."""


def open_split(folder: Path, split: str, reader: str = "auto", device: torch.device | str = "cpu") -> Reader:
    """A reader for `train` or `test` of a folder of shards; their digests are checked when they are first read.

    The reader `auto` is `resident` where the canvases take at most half of the free memory, else `streaming`. Where
    batches are wanted on a GPU, it keeps canvases that take at most a quarter of its free memory, and others come in
    memory from which it copies by itself.

    Raises:
        UserError: the shards are missing or damaged, or do not fit in memory if they are to be resident.
    """
    known = manifest.read(Path(folder))
    needed = resident.memory(known.split(split).count, known.resolution)
    free = resident.available_memory()
    device = torch.device(device)
    pin = device.type == "cuda"
    if choose(reader, needed, free) == "streaming":
        return Streaming(folder, split, pin=pin)
    if device.type != "cuda" or needed > torch.cuda.mem_get_info(device)[0] // 4:
        device = torch.device("cpu")
    cache = _cache(known.digest, split) if needed >= _CACHED else None
    return resident.Resident(folder, split, cache=cache, device=device, pin=pin)


def choose(reader: str, needed: int, free: int | None) -> str:
    """The reader that `reader` means where canvases need so many bytes and so many are free (None: not known)."""
    if reader != "auto":
        return reader
    return "resident" if free is None or needed <= free // 2 else "streaming"


def _cache(digest: str, split: str) -> Path:
    """The file for a split's decoded canvases; those of other data but the newest are deleted."""
    own = scratch.folder("canvases", digest[:16])
    others = [path for path in own.parent.iterdir() if path != own]
    for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(old, ignore_errors=True)
    return own / f"{split}.u8"


class Loader:
    """Batches of a reader's images.

    A batch is the same set of images whatever the number of ranks: each rank takes its slice of it. Shards are mixed
    `shuffle_shards` at a time: their order is drawn, and then that of all their images. Without `drop_last` the last
    batch is smaller, and with several ranks the last of them may have few or none of it.

    Raises:
        UserError: the split is smaller than one batch (with `drop_last`), or ranks cannot share it evenly.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        batch_size: int,  # images, over all ranks together
        seed: int,  # with the epoch's number it decides the order; nothing else does
        shuffle: bool = True,  # draw a new order each epoch; else the order is that of the shards
        shuffle_shards: int = Config().shuffle_shards,
        drop_last: bool = True,  # leave out the rest that does not fill a batch
        rank: int = 0,  # this process, 0 to `world_size` - 1
        world_size: int = 1,  # processes that share each batch
        parts: int = 1,  # equal parts that a batch is trained in, one after another: each is shared evenly
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch_size {batch_size}, rank {rank} of {world_size} make no sense")
        if batch_size % (world_size * parts):
            raise UserError(f"batch_size {batch_size} cannot be shared evenly by {world_size} processes")
        if drop_last and len(reader) < batch_size:
            raise UserError(
                f"batch_size {batch_size} is more than the {len(reader)} images there are: lower it"
            )
        self.reader, self.batch_size, self.seed = reader, batch_size, seed
        self.shuffle_shards = shuffle_shards
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world_size, self.parts = rank, world_size, parts

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self.reader), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> np.ndarray:
        """The indices of all images in this epoch's order, int64 [N], the same on all ranks."""
        return np.concatenate([draw() for _, draw in self._stretches(epoch)])

    def _stretches(self, epoch: int) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        """The order in stretches: how many images, and a function that draws their indices."""
        blocks = self.reader.blocks
        if not self.shuffle:
            for first, end in itertools.pairwise(blocks.tolist()):
                yield end - first, functools.partial(np.arange, first, end)
            return
        shards = _shuffled(np.arange(len(blocks) - 1), self.seed, epoch, _SHARDS)
        if len(shards) <= self.shuffle_shards:
            shards.sort()  # all images are mixed: the order before does not matter
        for number, start in enumerate(range(0, len(shards), self.shuffle_shards)):
            some = shards[start : start + self.shuffle_shards]
            draw = functools.partial(_mixed, blocks, some, self.seed, epoch, number)
            yield int((blocks[some + 1] - blocks[some]).sum()), draw

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's part of the batches `start` … `steps` - 1 of an epoch; threads make the next ones.

        Closing the iterator ends them; what the reader raises is raised here.
        """
        return ordered_map(self.reader.gather, self._indices(epoch, start), threads=_AT_ONCE, ahead=_AHEAD)

    def _indices(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        size = self.batch_size
        mine = np.arange(size).reshape(self.parts, self.world_size, -1)[:, self.rank].ravel()
        skip, waiting = start * size, np.empty(0, np.int64)
        for count, draw in self._stretches(epoch):
            if count <= skip:
                skip -= count
                continue
            waiting, skip = np.concatenate([waiting, draw()[skip:]]), 0
            for first in range(0, len(waiting) - size + 1, size):
                yield waiting[first : first + size][mine]
            waiting = waiting[len(waiting) // size * size :]
        if len(waiting) and not self.drop_last:
            yield waiting[mine[mine < len(waiting)]]


def _shuffled(values: np.ndarray, seed: int, epoch: int, stream: int) -> np.ndarray:
    """The values in an order drawn by seed, epoch and the number of a stream."""
    # Sorting raw words: numpy promises never to change these, but not what `permutation` makes of them.
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, 0, stream])
    return values[np.argsort(bits.random_raw(len(values)), kind="stable")]


def _mixed(blocks: np.ndarray, shards: np.ndarray, seed: int, epoch: int, number: int) -> np.ndarray:
    """The indices of these shards' images, mixed."""
    indices = np.concatenate([np.arange(blocks[shard], blocks[shard + 1]) for shard in shards.tolist()])
    return _shuffled(indices, seed, epoch, number)
