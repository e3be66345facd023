from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sslpipe.shards import images
from sslpipe.shards.images import BadImage, decode, store, to_canvas_image

MANY = 10**6
Picture = Callable[..., Image.Image]
Encoded = Callable[..., bytes]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats(kind: str, picture: Picture, encoded: Encoded) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = picture(1)
    got = decode(encoded(image, kind, **options), max_pixels=MANY)
    assert got.mode == "RGB"
    assert (pixels(got) == pixels(image)).all()


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_lossy_formats_are_decoded_as_pillow_does(kind: str, picture: Picture, encoded: Encoded) -> None:
    data = encoded(picture(1), kind)
    assert (
        pixels(decode(data, max_pixels=MANY)) == pixels(Image.open(io.BytesIO(data)).convert("RGB"))
    ).all()


def test_16_bit_grey_is_rounded_to_8(encoded: Encoded) -> None:
    deep = np.arange(0, 65536, 37, dtype=np.uint16).reshape(-1, 4)
    for kind in ("PNG", "TIFF"):
        got = decode(encoded(Image.fromarray(deep), kind), max_pixels=MANY)
        assert got.mode == "L"
        assert (pixels(got) == np.round(deep.astype(float) / 257)).all()


def test_more_than_16_bits_and_floats_are_refused(encoded: Encoded) -> None:
    with pytest.raises(BadImage, match="pixels of more than 16 bits"):
        decode(encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"), max_pixels=MANY)
    with pytest.raises(BadImage, match="floating-point pixels"):
        decode(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), max_pixels=MANY)


def test_transparency_shows_white(encoded: Encoded) -> None:
    colours = np.zeros((1, 3, 4), np.uint8)
    colours[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]
    expected = [[round(c * a / 255 + 255 * (1 - a / 255)) for c in (200, 100, 0)] for a in (255, 0, 51)]
    got = decode(encoded(Image.fromarray(colours)), max_pixels=MANY)
    assert got.mode == "RGB"
    assert np.abs(pixels(got)[0] - expected).max() <= 1

    alpha = Image.fromarray(np.array([[255, 0]], np.uint8))
    got = decode(encoded(Image.merge("LA", [Image.new("L", (2, 1), 10), alpha])), max_pixels=MANY)
    assert got.mode == "L"
    assert pixels(got).tolist() == [[10, 255]]


def test_palettes(encoded: Encoded) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert pixels(decode(encoded(image), max_pixels=MANY)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    clear = decode(encoded(image, transparency=1), max_pixels=MANY)
    assert pixels(clear).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_one_bit_and_cmyk(encoded: Encoded) -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert pixels(decode(encoded(bits), max_pixels=MANY)).tolist() == [[0, 255]]
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    got = decode(encoded(ink, "JPEG", quality=100), max_pixels=MANY)
    assert np.abs(pixels(got) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation: int, picture: Picture, encoded: Encoded) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(3), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (pixels(decode(data, max_pixels=MANY)) == pixels(expected)).all()
    stored = store(data, resolution=64, max_pixels=MANY)
    assert (pixels(Image.open(io.BytesIO(stored.data))) == pixels(expected)).all()


def test_animations_give_their_first_frame(encoded: Encoded) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        stored = store(data, resolution=8, max_pixels=MANY)
        assert (pixels(stored.image) == [255, 0, 0]).all(), kind
        assert stored.data != data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"Dear diary", "not an image"),
        (b"<svg/>", "not an image"),
        (b"\xff\xd8\xff", "damaged|not"),
    ],
)
def test_what_is_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data, max_pixels=MANY)


def test_truncated_images(picture: Picture, encoded: Encoded) -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(2, 64, 64), kind)
        with pytest.raises(BadImage, match="truncated"):
            decode(data[: len(data) * 2 // 3], max_pixels=MANY)


@pytest.mark.parametrize("kind", [*images.FORMATS])
def test_damaged_bytes_raise_nothing_else(kind: str, picture: Picture, encoded: Encoded) -> None:
    whole = encoded(picture(4), kind)
    random = np.random.default_rng(0)
    outcomes = set()
    with images.limits(MANY):
        for trial in range(150):
            data = bytearray(whole[: random.integers(1, len(whole) + 1)] if trial % 2 else whole)
            for place in random.integers(0, len(data), 3):
                data[place] = random.integers(0, 256)
            try:
                outcomes.add(decode(bytes(data), max_pixels=MANY).mode)
            except BadImage as error:
                outcomes.add(error.reason)
    assert len(outcomes) > 1  # some were noticed; a changed byte of a bitmap cannot be


def test_pixel_limit_is_checked_before_decoding(picture: Picture, encoded: Encoded) -> None:
    # A header that promises 60 000 x 60 000 pixels, and nothing behind it.
    bomb = bytearray(encoded(picture(1)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(BadImage, match=r"more pixels than shard\.max_pixels"):
        decode(bytes(bomb), max_pixels=MANY)
    with images.limits(MANY), pytest.raises(BadImage, match=r"more pixels than shard\.max_pixels"):
        decode(bytes(bomb), max_pixels=MANY)
    with images.limits(100), pytest.raises(BadImage, match=r"more pixels than shard\.max_pixels"):
        decode(encoded(picture(1, 12, 16)), max_pixels=100)
    assert decode(encoded(picture(1, 10, 10)), max_pixels=100).size == (10, 10)


def test_endless_lines_are_refused_before_anything_is_decoded(encoded: Encoded) -> None:
    """Pillow's tables for scaling one of 70 million pixels do not fit in memory."""
    for size in ((images.LONGEST + 1, 1), (1, images.LONGEST + 1)):
        with pytest.raises(BadImage, match="a side of more than a million pixels"):
            store(encoded(Image.new("L", size)), resolution=64, max_pixels=10**8)
    longest = store(encoded(Image.new("L", (images.LONGEST, 1))), resolution=64, max_pixels=10**8)
    assert longest.image.size == (64, 1)


def test_limits_are_put_back() -> None:
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with images.limits(7):
        assert Image.MAX_IMAGE_PIXELS == 7
    assert before == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1, 1, (1, 1)),
        (3, 4000, (1, 28)),
        (4000, 3, (28, 1)),
        (28, 28, (28, 28)),
        (20, 28, (20, 28)),
        (56, 42, (28, 21)),
        (57, 57, (28, 28)),
        (29, 10, (28, 10)),
    ],
)
def test_canvas_sizes(height: int, width: int, expected: tuple[int, int]) -> None:
    image = to_canvas_image(Image.new("RGB", (width, height)), 28)
    assert (image.height, image.width) == expected


def test_scaling_down_is_antialiased_bicubic(picture: Picture) -> None:
    image = picture(5, 90, 70)
    got = to_canvas_image(image, 32)
    planar = torch.tensor(np.asarray(image), dtype=torch.float64).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        planar, (got.height, got.width), mode="bicubic", antialias=True
    )
    assert np.abs(pixels(got) - expected[0].permute(1, 2, 0).clamp(0, 255).numpy()).max() <= 1.01


def test_large_photographs_decoded_at_a_fraction_look_the_same(picture: Picture, encoded: Encoded) -> None:
    data = encoded(picture(6, 900, 1200), "JPEG", quality=95)
    quick = store(data, resolution=64, max_pixels=10**7)
    exact = to_canvas_image(Image.open(io.BytesIO(data)).convert("RGB"), 64)
    assert quick.image.size == exact.size == (64, 48)
    difference = np.abs(pixels(quick.image) - pixels(exact))
    assert difference.mean() < 1
    assert difference.max() < 10


def test_plain_files_that_fit_are_kept_byte_for_byte(picture: Picture, encoded: Encoded) -> None:
    for kind, extension in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")):
        for image in (picture(1), picture(1).convert("L")):
            data = encoded(image, kind)
            stored = store(data, resolution=16, max_pixels=MANY)
            assert (stored.data, stored.extension) == (data, extension)


def test_other_files_are_stored_anew(picture: Picture, encoded: Encoded) -> None:
    small = picture(1)
    for data, extension in (
        (encoded(small, "BMP"), "png"),
        (encoded(small.convert("RGBA")), "png"),
        (encoded(small.quantize(8)), "png"),
        (encoded(picture(1, 40, 40)), "png"),
        (encoded(picture(1, 40, 40), "JPEG"), "jpg"),
        (encoded(small, "JPEG", comment=b"x" * 60_000) + b"\0" * 60_000, "jpg"),
    ):
        stored = store(data, resolution=16, max_pixels=MANY)
        assert stored.extension == extension
        assert stored.data != data
        assert len(stored.data) <= images.member_limit(16)
        again = decode(stored.data, max_pixels=16 * 16)
        assert np.abs(pixels(again) - pixels(stored.image)).max() <= (0 if extension == "png" else 12)


def test_noise_fits_a_shard() -> None:
    for side in (8, 256):
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        stored = store(noise, resolution=side, max_pixels=MANY)
        assert len(stored.data) <= images.member_limit(side)
        assert (pixels(decode(stored.data, max_pixels=side * side)) == noise).all()
        assert math.prod(stored.image.size) == side * side
