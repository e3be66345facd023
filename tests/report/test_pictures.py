from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslpipe.report.pictures import data_uri, picture, sprite
from sslpipe.report.run import read


def opened(uri: str) -> Image.Image:
    kind, content = uri.removeprefix("data:image/").split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    image.load()
    assert (image.format or "").lower() == kind
    return image


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_small_images_are_kept_exactly(shape: tuple[int, ...]) -> None:
    image = noise(*shape)
    np.testing.assert_array_equal(np.asarray(opened(data_uri(image))), np.asarray(image))


def test_large_ones_become_jpeg() -> None:
    assert opened(data_uri(noise(100, 100, 3), lossless=1000)).format == "JPEG"


def test_a_picture_is_made_as_small_as_the_page_needs(tmp_path: Path) -> None:
    noise(1500, 1700, 3).save(tmp_path / "large.png", compress_level=0)
    found = picture(tmp_path / "large.png", "noise")
    assert len(found.uri) <= 700_000
    assert (found.width, found.height) == opened(found.uri).size == (840, 741)


def test_a_broken_picture_raises(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises((OSError, ValueError, SyntaxError)):
        picture(tmp_path / "broken.png", "broken")


def test_sprite_places_images_in_rows() -> None:
    images = [Image.new("L", (4, 2), 10 * n) for n in range(5)]
    sheet, columns = sprite(images, 4)
    assert (sheet.mode, sheet.size, columns) == ("L", (12, 8), 3)
    assert [sheet.getpixel((4 * (n % 3) + 1, 4 * (n // 3) + 1)) for n in range(5)] == [0, 10, 20, 30, 40]
    assert sheet.getpixel((1, 7)) == 0


def test_thumbnails_are_the_images_without_the_canvas(finished: Path) -> None:
    run = read(finished, {})
    found, small = run.images("test", [5, 0], 40), run.images("train", [0], 6)
    assert found is not None
    assert small is not None
    images, labels = found
    assert labels == [1, 0]
    assert [image.size for image in images] == [(9, 12), (9, 12)]
    for image, name in zip(images, ("bee", "ant"), strict=True):
        stored = [np.asarray(Image.open(path)) for path in (finished / "photos/test" / name).iterdir()]
        assert any(np.array_equal(np.asarray(image), other) for other in stored)
    assert small[0][0].size == (4, 6)
