"""Write .beton files, the format of FFCV, version 2: images as JPEG or as pixels, with label and name.

FFCV's own writer waits for ever when one of its processes fails, and needs FFCV built; the format is simple, so it is
written here, by the types of ffcv/types.py. FFCV's reader and loader read these files (tested).

A file is: a header, a description of each field, a row for each sample, pages that hold what the rows point to (all
of a sample within one page), and a table of what was put where.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sslpipe.core import scratch
from sslpipe.shards import writing
from sslpipe.shards.images import Stored
from sslpipe.shards.writing import Placed

#: Version, number of fields, bytes of a page, number of samples, where the table of what was put where begins.
_HEADER = np.dtype("<u2, <u2, <u4, <u8, <u8", align=True)
_FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
_ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])
#: A sample's row. FFCV names fields by their order here, and by their descriptions in its interface.
_ROW = np.dtype([("image", _IMAGE), ("label", "<i8"), ("key", _BYTES)], align=True)
_FIELDS = {"image": 2, "label": 1, "key": 3}  # name and FFCV's number of the type, in the row's order
_JPEG, _PIXELS = 0, 1  # modes
_VERSION = 2
_PAGE = 1 << 23  # bytes, a power of two; more where one image needs it
_KEY = 4096  # bytes kept of a name


class Writer(writing.Writer):
    """One .beton file of at most `capacity` samples; the largest, by the canvas's side, decides the size of pages.

    With `pixels` every image is kept as pixels; else JPEGs stay what they are, and the rest is kept as pixels.
    """

    def __init__(self, path: Path, capacity: int, resolution: int, pixels: bool) -> None:
        super().__init__(path)
        self.pixels = pixels
        self.rows = np.zeros(capacity, _ROW)
        self.allocations: list[tuple[int, int, int]] = []
        self.page_size = _PAGE
        while self.page_size < 3 * resolution**2 + _KEY:
            self.page_size *= 2
        start = _HEADER.itemsize + len(_FIELDS) * _FIELD.itemsize + self.rows.nbytes
        self.page_start = -(-start // self.page_size) * self.page_size  # of the page being filled
        self.page = bytearray()

    def _add(self, place: int, key: str, stored: Stored, label: int) -> Placed:
        raw = self.pixels or stored.extension != "jpg"
        data = stored.image.convert("RGB").tobytes() if raw else stored.data
        name = key.encode()[:_KEY]
        if len(self.page) + len(data) + len(name) > self.page_size:
            self._flush()
        row = self.rows[self.count]
        row["image"] = (_PIXELS if raw else _JPEG, *stored.image.size, self._put(data))
        row["label"] = label
        row["key"] = (self._put(name), len(name))
        return Placed(int(row["image"]["data_ptr"]), len(data), raw)

    def _complete(self) -> str:
        self._flush()
        table = self.file.seek(0, os.SEEK_END)
        self.file.write(np.array(self.allocations, _ALLOCATION).tobytes())
        self.file.seek(0)
        self.file.write(self._head(table) + self.rows[: self.count].tobytes())
        self.file.close()
        return scratch.file_digest(self.temporary)

    def _put(self, data: bytes) -> int:
        """Append to the page; where in the file that will be."""
        pointer = self.page_start + len(self.page)
        self.page += data
        self.allocations.append((self.count, pointer, len(data)))
        return pointer

    def _flush(self) -> None:
        """Write the page, whole: FFCV reads whole pages."""
        if self.page:
            self.file.seek(self.page_start)
            self.file.write(self.page.ljust(self.page_size, b"\0"))
            self.page_start += self.page_size
            self.page = bytearray()

    def _head(self, table: int) -> bytes:
        header = np.array([(_VERSION, len(_FIELDS), self.page_size, self.count, table)], _HEADER)
        fields = np.zeros(len(_FIELDS), _FIELD)
        for field, (name, kind) in zip(fields, _FIELDS.items(), strict=True):
            field["type_id"] = kind
            field["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        return header.tobytes() + fields.tobytes()
