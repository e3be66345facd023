"""The images of a split, decoded from its shards: what all readers stand on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslpipe.shards import images, index, jpeg, manifest
from sslpipe.shards.files import Files
from sslpipe.shards.manifest import ShardError

_COLUMNS = ("shard", "offset", "bytes", "raw", "height", "width")  # of the index, what decoding needs


class SplitReader:
    """One split of a folder of shards: see `loader.Reader`; `rows` is the split's index, a row an image.

    Raises:
        UserError: the manifest or the index is missing or damaged.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.manifest = manifest.read(self.folder)
        known = self.manifest.split(split)
        self.rows = index.read(self.folder, split, known)
        self.resolution = self.manifest.resolution
        self._files = Files(self.folder, known.shards)
        self._check(known)
        self.blocks = np.cumsum([0, *(shard.count for shard in known.shards)], dtype=np.int64)
        self.labels = torch.from_numpy(self.rows["label"].astype(np.int64))

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.rows)

    @functools.cached_property
    def keys(self) -> list[str]:
        """The names the images had in the source, by index."""
        return index.read_keys(self.folder, self.split)

    def sizes_of(self, indices: np.ndarray) -> Tensor:
        """Heights and widths, int32 [n, 2]."""
        rows = self.rows[indices]
        return torch.from_numpy(np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32))

    def checked(self, indices: np.ndarray | Tensor) -> Tensor:
        """Indices of images, as int64 [n].

        Raises:
            IndexError: one is outside the split.
        """
        checked = torch.as_tensor(indices, dtype=torch.int64)
        if checked.numel() and not 0 <= int(checked.min()) <= int(checked.max()) < len(self):
            raise IndexError(f"indices must be in 0 to {len(self) - 1}")
        return checked

    def fill(self, indices: np.ndarray, pixels: np.ndarray, threads: Executor, count: int) -> None:
        """Decode images, int64 [n], into canvases, uint8 [n, R, R, 3], by `count` threads.

        Canvases are written whole: what an image does not cover becomes 0.

        Raises:
            ShardError: a shard is missing, damaged or not what the manifest says.
        """
        # Each thread takes the next few images until there are none: all are busy to the end, and wake only once.
        # `next` of a range's iterator is atomic.
        few = min(max(len(indices) // (8 * count), 1), 64)
        starts = iter(range(0, len(indices), few))

        def work() -> None:
            for start in starts:
                some, canvases = indices[start : start + few], pixels[start : start + few]
                rows = self.rows[some]
                columns = (rows[name].tolist() for name in _COLUMNS)
                for number, canvas, *row in zip(some.tolist(), canvases, *columns, strict=True):
                    self._decode(number, canvas, row)

        tasks = [threads.submit(work) for _ in range(count)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            for _ in starts:  # nothing is left to take
                pass
            raise

    def _decode(self, number: int, canvas: np.ndarray, row: Sequence[int]) -> None:
        shard, offset, size, raw, height, width = row
        data = self._files.read(shard, offset, size)
        if raw:
            canvas[:height, :width] = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        elif not jpeg.decode(data, height, width, canvas):
            try:
                image = images.decode_stored(data, self.resolution)
            except images.BadImage as error:
                raise ShardError(f"{self.split} image {number} is bad ({error.reason})") from error
            if image.size != (width, height):
                raise ShardError(f"{self.split} image {number} is not of the size that its index says")
            canvas[:height, :width] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        if height < self.resolution:
            canvas[height:] = 0
        if width < self.resolution:
            canvas[:height, width:] = 0

    def _check(self, known: manifest.Split) -> None:
        """What the index says must be possible: it is a file, and files can be changed."""
        rows, side, classes = self.rows, self.resolution, len(self.manifest.classes or ())
        counts = np.bincount(rows["shard"], minlength=len(known.shards))
        height, width, label = rows["height"], rows["width"], rows["label"]
        possible = (
            counts.tolist() == [shard.count for shard in known.shards]
            and 1 <= min(height.min(), width.min()) <= max(height.max(), width.max()) <= side
            and -1 <= label.min() <= label.max() < classes
            and int(rows["bytes"].max()) <= images.member_limit(side)
            and not (rows["raw"] & (rows["bytes"] != 3 * height.astype(np.int64) * width)).any()
        )
        if not possible:
            file = index.path(self.folder, self.split)
            raise ShardError(f"{file} does not fit its manifest: run `dvc repro` to make the shards again")
