"""JPEGs straight into a canvas, by simplejpeg where it is installed: the same pixels as Pillow's, without its lock.

Pillow holds the interpreter while it opens a file and copies pixels, so two threads are hardly faster than one.
"""

from __future__ import annotations

import numpy as np

try:
    import simplejpeg
except ImportError:  # Pillow does it, more slowly
    simplejpeg = None

_START = b"\xff\xd8\xff"


def decode(data: bytes, height: int, width: int, canvas: np.ndarray) -> bool:
    """Decode a JPEG of this size into the canvas's corner.

    Args:
        data: an image file.
        height: that it should have.
        width: that it should have.
        canvas: uint8 [R, R, 3].

    Returns:
        Whether it was done. If not (no JPEG, of another size, damaged, unusual), Pillow may say why or do it.
    """
    if simplejpeg is None or not data.startswith(_START):
        return False
    try:
        found = simplejpeg.decode_jpeg_header(data)
        if found[:2] != (height, width) or found[2] not in ("Gray", "YCbCr"):
            return False
        if width == canvas.shape[1]:
            simplejpeg.decode_jpeg(data, "RGB", buffer=canvas[:height])
        else:
            canvas[:height, :width] = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return False
    return True
