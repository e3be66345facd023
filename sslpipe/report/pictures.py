"""Pictures inside the page: data URIs small enough to carry, thumbnails, sheets of them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_WIDTHS = (1680, 1260, 840)  # the first is twice the column a picture is shown in
_LOSSLESS = 400_000  # bytes up to which a PNG is kept
_LARGEST = 700_000  # characters of a data URI beyond which a picture is made smaller


def data_uri(image: Image.Image, *, lossless: int = _LOSSLESS) -> str:
    """An image as a data URI: PNG while that has at most `lossless` bytes, JPEG for the rest (photographs).

    Transparency is kept in a PNG only.
    """
    image = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
    png = io.BytesIO()
    # Only for small ones is the best compression worth its seconds.
    image.save(png, "PNG", optimize=image.width * image.height <= 300_000)
    if png.tell() <= lossless:
        return _uri("png", png)
    jpeg = io.BytesIO()
    image.convert("RGB").save(jpeg, "JPEG", quality=86)
    return _uri("jpeg", jpeg)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as the page carries it. `said` is for readers who do not see it."""

    uri: str
    width: int
    height: int
    said: str


def picture(path: Path, said: str) -> Picture:
    """A picture file, scaled down to what the page shows and can carry.

    Raises OSError, ValueError or SyntaxError where the file is not a PNG or JPEG that Pillow can read.
    """
    with Image.open(path, formats=("PNG", "JPEG")) as opened:
        image = opened.convert({"1": "L", "L": "L", "RGBA": "RGBA"}.get(opened.mode, "RGB"))
    uri = ""
    for width in _WIDTHS:
        if image.width > width:
            height = max(1, round(image.height * width / image.width))
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        uri = data_uri(image)
        if len(uri) <= _LARGEST:
            break
    return Picture(uri=uri, width=image.width, height=image.height, said=said)


def thumbnail(pixels: np.ndarray, side: int) -> Image.Image:
    """An image, uint8 [H, W, 3], at most `side` pixels large: scaled down, never up."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if (pixels == pixels[..., :1]).all():  # grey images take a third of the room
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def sprite(images: Sequence[Image.Image], side: int) -> tuple[Image.Image, int]:
    """Images laid on one square sheet of `side`-pixel tiles, row by row; the sheet and its number of columns."""
    columns = max(1, math.ceil(math.sqrt(len(images))))
    grey = all(image.mode == "L" for image in images)
    sheet = Image.new("L" if grey else "RGB", (columns * side, math.ceil(len(images) / columns) * side))
    for tile, image in enumerate(images):
        row, column = divmod(tile, columns)
        inset = (side - image.width) // 2, (side - image.height) // 2
        sheet.paste(image, (column * side + inset[0], row * side + inset[1]))
    return sheet, columns
