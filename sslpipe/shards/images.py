"""Images from anywhere, decoded safely, upright, as 8-bit grey or RGB; scaled to a canvas; stored.

Only the formats in `FORMATS` are tried, whatever a file is called. Transparent pixels are laid on white,
16-bit values are divided by 257, animations give their first frame, colour profiles are ignored.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from sslpipe.shards import jpeg
from sslpipe.shards.scaling import as_image, scale

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
#: Stored as they came, by their extension in a shard.
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
#: A side may have so many pixels: tables for scaling it grow with it, to gigabytes for a line of a hundred million.
LONGEST = 1_000_000
#: The reason of a `BadImage` that has more pixels than a limit.
TOO_LARGE = "more pixels than shard.max_pixels"
_QUALITY = 95  # of a photograph scaled down; with full colour resolution it errs by about one level
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Named, so that Pillow has these two decoders without loading the thirty others.
assert {TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format} < set(FORMATS)


class BadImage(Exception):  # noqa: N818 (a finding, not a failure)
    """An image that cannot be used; `reason` is a short phrase, the same for all of its kind."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Stored:
    """An image as it goes into a shard: the file's bytes, its extension, and the pixels, grey or RGB."""

    data: bytes
    extension: str
    image: Image.Image


@contextmanager
def limits(max_pixels: int) -> Iterator[None]:
    """Make Pillow raise on images of more than `max_pixels`, and keep its remarks on odd metadata to itself.

    These are settings of the whole process, so threads that decode are started and ended inside.
    """
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def decode(data: bytes, *, max_pixels: int, resolution: int | None = None) -> Image.Image:
    """An encoded image as upright 8-bit grey (mode L) or RGB; its pixels are counted before any is decoded.

    With a resolution, a large JPEG may be decoded at a fraction of its size, never under twice the resolution. It is a
    `BadImage` if it is no image, damaged, too large, or of a kind that has no meaning as 8-bit colours.
    """
    image = _open(data, max_pixels)
    return _upright(image, as_image(_decode(data, image, resolution)))


def decode_stored(data: bytes, resolution: int) -> Image.Image:
    """An image as `store` left it: upright 8-bit grey (mode L) or RGB, no side longer than `resolution`.

    Any other is a `BadImage`; larger ones are refused before any pixel is decoded.
    """
    image = _open(data, resolution**2)
    if image.mode not in ("L", "RGB") or max(image.size) > resolution:
        raise BadImage("not as it was stored")
    try:
        image.load()
    except Exception as error:
        raise _bad(error) from None
    return image


def normalise(image: Image.Image) -> Image.Image:
    """An image someone else opened as `decode` gives it, with the same errors."""
    return _upright(image, _load(image, None))


def to_canvas_image(picture: Image.Image | np.ndarray, resolution: int) -> Image.Image:
    """Scale grey (mode L) or RGB, or uint8 [H, W] or [H, W, 3], down, never up, to a canvas (antialiased bicubic)."""
    sides = picture.shape[:2] if isinstance(picture, np.ndarray) else (picture.height, picture.width)
    longest = max(sides)
    if longest > resolution:
        return scale(picture, *(max(1, round(side * resolution / longest)) for side in sides))
    return as_image(picture)


def member_limit(resolution: int) -> int:
    """The most bytes an image in a shard may have: more than its raw pixels and some metadata need."""
    return 4 * resolution * resolution + 65536


def store(source: bytes | np.ndarray, *, resolution: int, max_pixels: int) -> Stored:
    """Decode a file, scale it or pixels, uint8 [H, W] or [H, W, 3], to the canvas, and give the bytes to keep.

    A plain JPEG, PNG or WebP that fits is kept byte for byte; a photograph scaled down becomes a JPEG of quality 95
    with full colour resolution; anything else a PNG, which loses nothing. Errors are those of `decode`.
    """
    if not isinstance(source, bytes):
        image = to_canvas_image(source, resolution)
        return Stored(_encode(image, "PNG"), "png", image)
    opened = _open(source, max_pixels)
    fits = max(opened.size) <= resolution  # before it is decoded, since that may halve it
    image = _upright(opened, to_canvas_image(_decode(source, opened, resolution), resolution))
    kind = opened.format or ""
    if fits and _is_plain(opened) and len(source) <= member_limit(resolution):
        return Stored(source, _EXTENSIONS[kind], image)
    target = "JPEG" if kind in ("JPEG", "MPO") else "PNG"
    return Stored(_encode(image, target), _EXTENSIONS[target], image)


def _bad(error: Exception) -> Exception:
    """What to raise for what Pillow raised: a decoder fed with damaged bytes raises almost anything."""
    if isinstance(error, BadImage | MemoryError):
        return error
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return BadImage(TOO_LARGE)
    return BadImage("not an image" if isinstance(error, UnidentifiedImageError) else "damaged")


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise _bad(error) from None
    if image.width * image.height > max_pixels:
        raise BadImage(TOO_LARGE)
    if max(image.size) > LONGEST:
        raise BadImage("a side of more than a million pixels")
    if min(image.size) < 1:
        raise BadImage("no pixels")
    return image


def _decode(data: bytes, image: Image.Image, resolution: int | None) -> Image.Image | np.ndarray:
    """Every pixel of an image that was opened, in 8 bits: grey or RGB, or uint8 [H, W] or [H, W, 3]."""
    if image.format == "JPEG" and (resolution is None or max(image.size) <= 2 * resolution):
        array = jpeg.pixels(data)
        if array is not None and array.shape[1::-1] == image.size:
            return array
    return _load(image, resolution)


def _load(image: Image.Image, resolution: int | None) -> Image.Image:
    """Decode every pixel, in 8 bits."""
    try:
        if resolution is not None and max(image.size) > 2 * resolution:
            factor = 2 * resolution / max(image.size)
            image.draft(None, (max(1, int(image.width * factor)), max(1, int(image.height * factor))))
        image.load()
        return _eight_bit(image)
    except OSError as error:
        raise BadImage("truncated" if "truncated" in str(error) else "damaged") from None
    except Exception as error:
        raise _bad(error) from None


def _eight_bit(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise BadImage("pixels of more than 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if mode == "F":
        raise BadImage("floating-point pixels")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata says nothing about the pixels
        return 1


def _upright(opened: Image.Image, image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(opened))
    return image if turn is None else image.transpose(turn)


def _is_plain(image: Image.Image) -> bool:
    """Whether any reader gets our pixels from these bytes: nothing to turn, blend or choose."""
    return (
        image.format in _EXTENSIONS
        and image.mode in ("L", "RGB")
        and "transparency" not in image.info
        and getattr(image, "n_frames", 1) == 1
        and _orientation(image) not in _UPRIGHT
    )


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": _QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    image.save(buffer, kind, **options)
    return buffer.getvalue()
