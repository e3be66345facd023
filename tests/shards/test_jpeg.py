from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sslpipe.shards import images, jpeg

simplejpeg = pytest.importorskip("simplejpeg")


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "options", [{"subsampling": n} for n in (0, 1, 2)] + [{"progressive": True}, {"optimize": True}]
)
@pytest.mark.parametrize("size", [(64, 64), (64, 40), (37, 64), (1, 1), (15, 17)])
def test_the_pixels_are_pillows(
    mode: str, options: dict, size: tuple[int, int], picture: Callable, encoded: Callable
) -> None:
    height, width = size
    data = encoded(picture(3, height, width).convert(mode), "JPEG", quality=80, **options)
    canvas = np.full((64, 64, 3), 7, np.uint8)
    assert jpeg.decode(data, height, width, canvas)
    expected = images.decode_stored(data, 64).convert("RGB")
    assert (canvas[:height, :width] == np.asarray(expected)).all()
    canvas[:height, :width] = 7
    assert (canvas == 7).all()  # nothing else is touched


def test_what_is_left_to_pillow(
    picture: Callable, encoded: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = np.full((32, 32, 3), 7, np.uint8)
    good = encoded(picture(1, 20, 30), "JPEG")
    for data in (
        encoded(picture(1, 20, 30)),  # a PNG
        encoded(picture(1, 20, 30).convert("CMYK"), "JPEG"),
        encoded(picture(1, 20, 30), "JPEG", keep_rgb=True),
        encoded(picture(1, 20, 31), "JPEG"),
        encoded(picture(1, 200, 300), "JPEG"),
        good[:200],
        good[:3],
        b"",
    ):
        assert not jpeg.decode(data, 20, 30, canvas)
        assert (canvas == 7).all()
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert not jpeg.decode(good, 20, 30, canvas)


def test_damage_within_never_writes_beyond(picture: Callable, encoded: Callable) -> None:
    random = np.random.default_rng(0)
    good = encoded(picture(1, 32, 32), "JPEG")
    for _ in range(300):
        data = bytearray(good)
        for _ in range(random.integers(1, 5)):
            data[random.integers(2, len(data))] = random.integers(0, 256)
        room = np.full((40, 32, 3), 7, np.uint8)
        jpeg.decode(bytes(data), 32, 32, room[4:36])
        assert (room[:4] == 7).all()
        assert (room[36:] == 7).all()


def test_a_picture_of_one_pixel_is_that_pixel(encoded: Callable) -> None:
    canvas = np.zeros((8, 8, 3), np.uint8)
    assert jpeg.decode(encoded(Image.new("L", (1, 1), 200), "JPEG"), 1, 1, canvas)
    assert canvas[0, 0].tolist() == [200, 200, 200]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_whole_files_decode_as_by_pillow(
    mode: str, picture: Callable, encoded: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for data in (
        encoded(picture(1, 40, 30).convert(mode), "JPEG"),
        encoded(picture(1, 40, 30).convert(mode), "JPEG", exif=turned),
        encoded(picture(1, 400, 30).convert(mode), "JPEG"),  # Pillow decodes it at half its size
    ):
        ours = images.decode(data, max_pixels=10**6, resolution=64)
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, "simplejpeg", None)
            theirs = images.decode(data, max_pixels=10**6, resolution=64)
        assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
        assert (np.asarray(ours) == np.asarray(theirs)).all()


def test_damaged_files_have_pillows_reasons(
    picture: Callable, encoded: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    good = encoded(picture(1, 32, 32), "JPEG")

    def outcome(data: bytes) -> tuple[str, bytes]:
        try:
            return "", images.decode(data, max_pixels=10**6).tobytes()
        except images.BadImage as error:
            return error.reason, b""

    seen = set()
    for _ in range(200):
        data = bytearray(good[: random.integers(len(good) // 2, len(good) + 1)])
        data[random.integers(2, len(data))] = random.integers(0, 256)
        ours = outcome(bytes(data))
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, "simplejpeg", None)
            theirs = outcome(bytes(data))
        assert ours[0] == theirs[0]
        seen.add(ours[0])
    assert len(seen) > 1
