"""Canvases of any images of a split, decoded from its shards: what all readers stand on."""

from __future__ import annotations

import functools
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from sslpipe.shards import images, index, jpeg, manifest
from sslpipe.shards.files import Files
from sslpipe.shards.manifest import ShardError


class Canvases:
    """The images of one split as they lie in its shards.

    Args:
        folder: a folder of shards with its manifest.
        split: `train` or `test`.

    Attributes:
        manifest: of the folder.
        rows: the split's index, a row an image.
        resolution: the canvas side R.

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

    @functools.cached_property
    def keys(self) -> list[str]:
        """The names the images had in the source, by place."""
        return index.read_keys(self.folder, self.split)

    @functools.cached_property
    def blocks(self) -> np.ndarray:
        """Where each shard's images begin, and N; int64 [shards + 1]."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.rows["shard"]))]).astype(np.int64)

    def fill(self, places: np.ndarray, pixels: np.ndarray, threads: Executor, count: int) -> None:
        """Decode images into canvases.

        Args:
            places: of the images, int64 [n].
            pixels: uint8 [n, R, R, 3], written whole: what an image does not cover becomes 0.
            threads: that decode.
            count: of the threads.

        Raises:
            ShardError: a shard is missing, damaged or not what the manifest says.
        """
        # Each thread takes the next few images until there are none: all are busy to the end, and wake only once.
        # `next` of a range's iterator is atomic.
        few = min(max(len(places) // (8 * count), 1), 64)
        starts = iter(range(0, len(places), few))

        def work() -> None:
            for start in starts:
                self._decode_some(places[start : start + few], pixels[start : start + few])

        tasks = [threads.submit(work) for _ in range(count)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            for _ in starts:  # nothing is left to take
                pass
            raise

    def _decode_some(self, places: np.ndarray, pixels: np.ndarray) -> None:
        rows = self.rows[places]
        columns = (rows[name].tolist() for name in ("shard", "offset", "bytes", "raw", "height", "width"))
        for place, canvas, *row in zip(places.tolist(), pixels, *columns, strict=True):
            self._decode(place, canvas, *row)

    def _decode(
        self,
        place: int,
        canvas: np.ndarray,
        shard: int,
        offset: int,
        size: int,
        raw: int,
        height: int,
        width: int,
    ) -> None:
        data = self._files.read(shard, offset, size)
        if raw:
            canvas[:height, :width] = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        elif not jpeg.decode(data, height, width, canvas):
            try:
                image = images.decode_stored(data, self.resolution)
            except images.BadImage as error:
                raise ShardError(f"{self.split} image {place} is bad ({error.reason})") from error
            if image.size != (width, height):
                raise ShardError(f"{self.split} image {place} is not of the size that its index says")
            canvas[:height, :width] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        if height < self.resolution:
            canvas[height:] = 0
        if width < self.resolution:
            canvas[:height, width:] = 0

    def _check(self, known: manifest.Split) -> None:
        """What the index says must be possible: it is a file, and files can be changed."""
        rows, side, classes = self.rows, self.resolution, len(self.manifest.classes or ())
        counts = np.bincount(rows["shard"], minlength=len(known.shards))
        if (
            counts.tolist() != [shard.count for shard in known.shards]
            or int(rows["height"].max()) > side
            or int(rows["width"].max()) > side
            or int(min(rows["height"].min(), rows["width"].min())) < 1
            or int(rows["label"].max()) >= classes
            or int(rows["label"].min()) < -1
            or int(rows["bytes"].max()) > images.member_limit(side)
            or (rows["raw"] & (rows["bytes"] != 3 * rows["height"].astype(np.int64) * rows["width"])).any()
        ):
            file = index.path(self.folder, self.split)
            raise ShardError(f"{file} does not fit its manifest: run `dvc repro` to make the shards again")
