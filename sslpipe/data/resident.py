"""A whole split held in memory: decoded once, then a batch is one copy."""

from __future__ import annotations

import contextlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.console.progress import progress
from sslpipe.core import scratch
from sslpipe.core.device import to_device
from sslpipe.core.threads import cores
from sslpipe.data.batch import Batch
from sslpipe.data.buffers import Buffers
from sslpipe.data.reading import SplitReader


class Resident(SplitReader):
    """The images of one split as canvases, uint8 [N, R, R, 3], in the memory of `device`, where batches come out.

    With `pin` batches on the CPU are in memory from which a GPU copies by itself.

    They are kept in the file `cache`, mapped into memory: later openings decode nothing, and processes of one machine
    share the memory. None for memory of its own.

    Raises:
        UserError: the shards are missing, damaged or not what the manifest says; canvases do not fit in memory,
            or the disk is too full for the cache.
    """

    def __init__(
        self, folder: Path, split: str, *, cache: Path | None = None, device: torch.device | str = "cpu",
        pin: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(folder, split)
        count, side = len(self), self.resolution
        if cache is None:
            needed, free = memory(count, side), available_memory()
            if free is not None and needed > free:  # else the kernel would end the process without a word
                lack = f"{needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
                raise UserError(
                    f"the {split} images need {lack}: lower shard.resolution, or use fewer images"
                )
            pixels = np.empty((count, side, side, 3), np.uint8)
            with ThreadPoolExecutor(cores(), thread_name_prefix="decode") as threads:
                self.fill(np.arange(count), pixels, threads, cores())
        else:
            pixels = self._mapped(cache, (count, side, side, 3))
        self.pixels = torch.from_numpy(pixels).to(device)
        self.sizes = self.sizes_of(np.arange(count))
        self._buffers = Buffers(pin)
        self._on_gpu = OnGpu(self.pixels) if self.pixels.is_cuda else None

    def _fill_shown(self, pixels: np.ndarray) -> None:
        """Decode all images, with progress: it may take a while."""
        pool = ThreadPoolExecutor(cores(), thread_name_prefix="decode")
        with pool as threads, progress("decode", len(pixels), "images") as bar:
            for start in range(0, len(pixels), 4096):
                part = pixels[start : start + 4096]
                self.fill(np.arange(start, start + len(part)), part, threads, cores())
                bar.update(len(part))

    def _mapped(self, cache: Path, shape: tuple[int, ...]) -> np.ndarray:
        """The canvases in a file, made if it is not there; private: what is written to them stays in this process."""
        with scratch.locked(cache.with_suffix(".lock"), "another process that decodes the same images"):
            if not (cache.exists() and cache.stat().st_size == math.prod(shape)):
                part = cache.with_suffix(".part")
                try:
                    with open(part, "wb") as file:
                        os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk is noticed here
                    pixels = np.memmap(part, np.uint8, "r+", shape=shape)
                    self._fill_shown(pixels)
                    pixels.flush()
                    os.replace(part, cache)
                except OSError as error:
                    part.unlink(missing_ok=True)
                    raise explain_os_error(error, f"writing {cache}") from error
        return np.memmap(cache, np.uint8, "c", shape=shape)

    def gather(self, index: np.ndarray | Tensor) -> Batch:
        """The images of these indices, int64 [n] in 0 … N - 1, in this order.

        Raises:
            IndexError: one is outside the split.
        """
        index = self.checked(index)
        size, label = (values.index_select(0, index) for values in (self.sizes, self.labels))
        if self._on_gpu is None:
            return Batch(pixels=self._pixels(index), size=size, index=index, label=label)
        pixels, ready = self._on_gpu.gather(index)
        return Batch(pixels=pixels, size=size, index=index, label=label, ready=ready)

    def _pixels(self, index: Tensor) -> Tensor:
        shape = (len(index), *self.pixels.shape[1:])
        out = self._buffers.take(shape, torch.uint8, torch.contiguous_format)
        # One thread's copies fill the memory bus; torch's own threads wait for each other where cores are busy.
        # "clip" since indices are in range: otherwise numpy takes them to a copy first.
        np.take(self.pixels.numpy(), index.numpy(), axis=0, out=out.numpy(), mode="clip")
        return out


class OnGpu:
    """Canvases in a GPU's memory, uint8 [N, R, R, 3], from which threads gather batches on a stream of their own.

    Not on that of training, behind whose work they would come too late.
    """

    def __init__(self, canvases: Tensor) -> None:
        self.canvases, self._stream = canvases, torch.cuda.Stream(canvases.device)
        self._stream.wait_stream(torch.cuda.current_stream(canvases.device))

    def gather(self, index: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Those of these indices, int64 [n] on the host, and an event: they are there when it has happened."""
        with torch.cuda.stream(self._stream):
            pixels = self.canvases.index_select(0, to_device(index, self.canvases.device))
            return pixels, self._stream.record_event()


def memory(count: int, side: int) -> int:
    """Bytes that so many canvases take."""
    return count * side * side * 3


def available_memory() -> int | None:
    """Bytes that can be had without swapping, within a container's limit; None where that is not known."""
    known = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(known, default=None)
