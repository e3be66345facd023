"""The bytes of single images in a folder of shards, by the index; nothing here imports torch."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sslpipe.console.errors import explain_os_error
from sslpipe.shards import images, index, manifest
from sslpipe.shards.manifest import Shard, ShardError, Splits

_OPEN = 128  # files held open at a time


class Files:
    """The shards of a split, in the manifest's order. A shard's digest is checked when it is first read."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, shards
        self._checked: set[int] = set()
        self._locks = [threading.Lock() for _ in shards]
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """So many bytes of a shard; a `ShardError` if it is missing or not what the manifest says."""
        path = self.folder / self.shards[number].path
        try:
            data = os.pread(self._descriptor(number, path).value, size, offset)
        except OSError as error:
            raise explain_os_error(error, f"reading {path}") from error
        if len(data) != size:
            raise ShardError(f"{path} is cut short: {manifest.AGAIN}")
        return data

    def _descriptor(self, number: int, path: Path) -> _Descriptor:
        with self._lock:
            if (known := self._open.get(number)) is not None:
                self._open.move_to_end(number)
                return known
        with self._locks[number]:  # others wait rather than check it, too
            if number not in self._checked:
                manifest.check(path, self.shards[number].sha256)
                self._checked.add(number)
        with self._lock:
            known = self._open.setdefault(number, _Descriptor(path))
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)  # closed once nobody reads from it any more
            return known


class Pictures:
    """Single stored pictures of both splits."""

    def __init__(self, folder: Path, splits: Splits, resolution: int) -> None:
        self.resolution = resolution
        self.rows = {name: index.read(folder, name, split) for name, split in splits}
        self._files = {name: Files(folder, split.shards) for name, split in splits}

    def get(self, split: str, number: int) -> Image.Image:
        """The picture of this row of the index, grey or RGB."""
        shard, offset, size, raw, _, height, width, *_ = self.rows[split][number].item()
        data = self._files[split].read(shard, offset, size)
        if raw:
            return Image.frombytes("RGB", (width, height), data)
        return images.decode_stored(data, self.resolution)


class _Descriptor:
    """A file's descriptor, closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        self.value = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.value)
