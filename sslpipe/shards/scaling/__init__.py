"""Scaling pictures down by Pillow's bicubic filter: by Pillow or, once there are many, by compiled loops.

The pixels are the same, so how many pictures came before changes nothing but the time.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Pillow scales so many pixels in the time that the loops take to load.
WORTH_LOADING = 50_000_000
#: The loops turn 64 rows at once; of wider pictures than this that would be more than 12 MB.
WIDEST = 65_536
_scaled = 0  # pixels so far in this process; threads may miscount, which does no harm


def scale(picture: Image.Image | NDArray[np.uint8], height: int, width: int) -> Image.Image:
    """Scale grey (mode L) or RGB pictures, or uint8 [H, W] or [H, W, 3], down, antialiased: first across, then down."""
    global _scaled
    columns = picture.width if isinstance(picture, Image.Image) else picture.shape[1]
    loops = _loops() if _scaled >= WORTH_LOADING and columns <= WIDEST else None
    if loops is not None:
        return Image.fromarray(loops.scale(np.asarray(picture), height, width))
    image = as_image(picture)
    _scaled += image.width * image.height
    # In two steps: left to itself, Pillow takes now one direction first and now the other (from version 13).
    across = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return across.resize((width, height), Image.Resampling.BICUBIC)


def as_image(picture: Image.Image | NDArray[np.uint8]) -> Image.Image:
    """A picture as Pillow's; uint8 [H, W] or [H, W, 3] are copied."""
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


@cache
def _loops() -> ModuleType | None:
    try:
        from sslpipe.shards.scaling import loops  # numba takes a second to load
    except ImportError:  # numba is not installed
        return None
    return loops
