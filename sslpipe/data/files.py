"""The bytes of single images in a folder of shards, by the index; nothing here imports torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sslpipe.data import webdataset
from sslpipe.data.manifest import Shard
from sslpipe.errors import explain_os_error


class Files:
    """The shards of a split. A shard's digest is checked when it is first read.

    Args:
        folder: the folder of shards.
        shards: of one split, in the manifest's order.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, shards
        self._checked = [False] * len(shards)
        self._locks = [threading.Lock() for _ in shards]

    def read(self, row: np.void) -> bytes:
        """The image of a row of the index.

        Raises:
            ShardError: the shard is missing or is not what the manifest says.
            UserError: it cannot be read.
        """
        number, size = int(row["shard"]), int(row["bytes"])
        path = self.folder / self.shards[number].path
        if not self._checked[number]:
            self._check(number, path)
        try:
            # Opened each time: it costs a hundredth of decoding, and any number of shards will do.
            with open(path, "rb", buffering=0) as file:
                file.seek(int(row["offset"]))
                data = file.read(size)
        except OSError as error:
            raise explain_os_error(error, f"reading {path}") from error
        if len(data) != size:
            raise webdataset.ShardError(f"{path} is cut short: run `dvc repro` to make the shards again")
        return data

    def _check(self, number: int, path: Path) -> None:
        with self._locks[number]:  # others wait rather than check it too
            if not self._checked[number]:
                webdataset.check(path, self.shards[number])
                self._checked[number] = True
