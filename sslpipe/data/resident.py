"""A whole split held in memory: decoded once, then a batch is one copy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslpipe.data import images, manifest, webdataset
from sslpipe.data.batch import Batch
from sslpipe.data.threads import cores, ordered_map
from sslpipe.errors import UserError


class Resident:
    """The images of one split as canvases, uint8 [N, R, R, 3], in host memory.

    Args:
        folder: a folder of shards with its manifest.
        split: `train` or `test`.

    Raises:
        UserError: the shards are missing, damaged or not what the manifest says, or do not fit in memory.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.manifest = manifest.read(self.folder)
        count, side = self.manifest.split(split).count, self.manifest.resolution
        _check_memory(count * side * side * 3, split)
        self.resolution = side
        self.pixels = torch.zeros(count, side, side, 3, dtype=torch.uint8)
        self.sizes = torch.zeros(count, 2, dtype=torch.int32)
        self.labels = torch.full((count,), -1, dtype=torch.int64)
        self._fill()

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.labels)

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The images at these places, int64 [n] in 0 … N - 1, in this order.

        Raises:
            IndexError: a place is outside the split.
        """
        index = torch.as_tensor(index, dtype=torch.int64)
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"places must be in 0 to {len(self) - 1}")
        return Batch(
            pixels=self.pixels.index_select(0, index),
            size=self.sizes.index_select(0, index),
            index=index,
            label=self.labels.index_select(0, index),
        )

    @functools.cached_property
    def keys(self) -> list[str]:
        """The names the images had in the source, by place."""
        return webdataset.read_keys(self.folder, self.split)

    def _samples(self) -> Generator[webdataset.Sample]:
        for shard in self.manifest.split(self.split).shards:
            path = self.folder / shard.path
            webdataset.check(path, shard)
            yield from webdataset.iterate(path, max_bytes=images.member_limit(self.resolution))

    def _fill(self) -> None:
        """Decode all shards, in threads; each image goes straight to its place."""
        pixels, sizes = self.pixels.numpy(), self.sizes.numpy()  # the same memory
        threads = cores()
        decoded = ordered_map(self._decode, self._samples(), threads=threads, ahead=8 * threads)
        place = 0
        with images.limits(self.resolution**2), closing(decoded):
            for place, (image, label) in enumerate(decoded, start=1):
                if place > len(self):
                    break
                height, width = image.shape[:2]
                pixels[place - 1, :height, :width] = image
                sizes[place - 1] = height, width
                self.labels[place - 1] = label
        if place != len(self):
            raise webdataset.ShardError(
                f"{self.folder / self.split} does not hold the {len(self)} samples that its manifest says: "
                "run `dvc repro` to make the shards again"
            )

    def _decode(self, sample: webdataset.Sample) -> tuple[np.ndarray, int]:
        """Pixels [H, W, 3] with H, W at most the resolution, and the label."""
        side, classes = self.resolution, self.manifest.classes or ()
        try:
            image = images.decode(sample.image, max_pixels=side * side)
        except images.BadImage as error:
            raise webdataset.ShardError(f"{self.split} image {sample.key} is bad ({error.reason})") from error
        if max(image.size) > side or sample.label >= len(classes):
            raise webdataset.ShardError(f"{self.split} image {sample.key}: its size or label is out of range")
        return np.asarray(image.convert("RGB")), sample.label


def _check_memory(needed: int, split: str) -> None:
    """Refuse before the kernel would end the process without a word."""
    available = _available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"the {split} images need {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free: "
            "lower shard.resolution, or use fewer images"
        )


def _available_memory() -> int | None:
    """Bytes that can be had without swapping, within a container's limit; None where that is not known."""
    known = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(known, default=None)
