"""JPEGs by simplejpeg where it is installed: the same pixels as Pillow's, sooner and without its lock.

Pillow holds the interpreter while it opens a file and copies pixels, so two threads are hardly faster than one.
"""

from __future__ import annotations

import numpy as np

try:
    import simplejpeg
except ImportError:  # Pillow does it, more slowly
    simplejpeg = None

_START = b"\xff\xd8\xff"
_KINDS = {"Gray": "GRAY", "YCbCr": "RGB"}  # what a JPEG holds, and what it becomes


def decode(data: bytes, height: int, width: int, canvas: np.ndarray) -> bool:
    """Decode a JPEG of this size into the corner of a canvas, uint8 [R, R, 3]; returns whether it was done.

    If it was not (no JPEG, of another size, damaged, unusual), Pillow may say why or do it.
    """
    if simplejpeg is None or not data.startswith(_START):
        return False
    try:
        found = simplejpeg.decode_jpeg_header(data)
        if found[:2] != (height, width) or found[2] not in _KINDS:
            return False
        if width == canvas.shape[1]:
            simplejpeg.decode_jpeg(data, "RGB", buffer=canvas[:height])
        else:
            canvas[:height, :width] = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return False
    return True


def pixels(data: bytes) -> np.ndarray | None:
    """A grey JPEG as uint8 [H, W] or one in colour as [H, W, 3]; None where Pillow may say why not or do it."""
    if simplejpeg is None or not data.startswith(_START):
        return None
    try:
        kind = _KINDS.get(simplejpeg.decode_jpeg_header(data)[2])
        if kind is None:
            return None
        array = simplejpeg.decode_jpeg(data, kind)
    except ValueError:
        return None
    return array[:, :, 0] if kind == "GRAY" else array
