from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sslpipe.shards import scaling
from sslpipe.shards.scaling import loops

sides = st.integers(1, 200)


def _pillow(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Across, then down: the order of every Pillow up to 12, and of this package."""
    image = Image.fromarray(pixels).resize((width, pixels.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(sides, sides, st.data(), st.booleans(), st.booleans())
def test_the_loops_give_pillows_pixels(
    rows: int, columns: int, data: st.DataObject, grey: bool, stark: bool
) -> None:
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    pixels = random.integers(0, 256, (rows, columns) if grey else (rows, columns, 3)).astype(np.uint8)
    if stark:  # black and white: the filter overshoots, and sums are cut off
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    got = loops.scale(pixels, height, width)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, _pillow(pixels, height, width))


@pytest.mark.parametrize("shape", [(640, 480, 3), (64, 1000, 3), (2000, 65)])
def test_large_pictures(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    height, width = shape[0] // 5, shape[1] // 5
    np.testing.assert_array_equal(loops.scale(pixels, height, width), _pillow(pixels, height, width))


def test_arrays_that_nobody_may_write_or_that_are_views() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    expected = _pillow(pixels[::2, ::-1], 10, 20)
    np.testing.assert_array_equal(loops.scale(pixels[::2, ::-1], 10, 20), expected)
    frozen = np.ascontiguousarray(pixels[::2, ::-1])
    frozen.setflags(write=False)
    np.testing.assert_array_equal(loops.scale(frozen, 10, 20), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_and_arrays_before_and_after_the_loops_are_loaded(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 50).convert(mode)
    expected = _pillow(np.asarray(image), 30, 40)
    monkeypatch.setattr(scaling, "_scaled", 0)
    monkeypatch.setattr(scaling, "WORTH_LOADING", 2 * 90 * 70)
    called = []
    monkeypatch.setattr(loops, "scale", lambda *args, scale=loops.scale: called.append(1) or scale(*args))
    for number in range(4):
        got = scaling.scale(image if number % 2 else np.asarray(image), 30, 40)
        assert got.mode == mode
        np.testing.assert_array_equal(np.asarray(got), expected)
    assert len(called) == 2


def test_very_wide_pictures_stay_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "WORTH_LOADING", 0)
    monkeypatch.setattr(loops, "scale", None)
    assert scaling.scale(Image.new("L", (scaling.WIDEST + 1, 2), 7), 1, 9).getpixel((8, 0)) == 7
    with pytest.raises(TypeError):
        scaling.scale(Image.new("L", (scaling.WIDEST, 2), 7), 1, 9)


def test_without_numba_pillow_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sslpipe.shards.scaling.loops", None)
    monkeypatch.delattr("sslpipe.shards.scaling.loops")
    monkeypatch.setattr(scaling, "WORTH_LOADING", 0)
    scaling._loops.cache_clear()
    try:
        assert scaling._loops() is None
        assert scaling.scale(Image.new("RGB", (9, 9), "red"), 3, 3).getpixel((1, 1)) == (255, 0, 0)
    finally:
        scaling._loops.cache_clear()
