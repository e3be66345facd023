from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from PIL import Image, ImageEnhance

from sslpipe.sharding import duplicates, sources
from sslpipe.sharding import shard as sharding
from sslpipe.sharding.sheet import duplicates_sheet
from sslpipe.shards import manifest
from sslpipe.shards.index import COLUMNS

OUT = Path("data/shards")


def photo(seed: int, side: int = 160) -> Image.Image:
    """Smooth, with detail: what a photograph's spectrum is like."""
    random = np.random.default_rng(seed)
    field = np.zeros((side, side, 3))
    for size, weight in ((4, 1.0), (8, 0.5), (16, 0.25), (40, 0.12)):
        coarse = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
        field += weight * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), float)
    return Image.fromarray((field / 1.87).astype(np.uint8))


def bits_apart(a: Image.Image, b: Image.Image) -> int:
    return (duplicates.perceptual_hash(a) ^ duplicates.perceptual_hash(b)).bit_count()


def test_the_hash_is_phash_by_scipys_cosine_transform() -> None:
    for seed in range(20):
        image = photo(seed, 32).convert("L")
        low = scipy.fft.dctn(np.asarray(image, float))[:8, :8]
        # scipy doubles each sum: the median and the comparison do not change.
        expected = int("".join("01"[bool(bit)] for bit in (low > np.median(low)).flatten()), 2)
        assert duplicates.perceptual_hash(image) == expected


def test_the_hash_withstands_what_copies_go_through(encoded: Callable) -> None:
    for seed in range(10):
        image = photo(seed)
        compressed = Image.open(io.BytesIO(encoded(image, "JPEG", quality=40)))
        copies = [
            image.resize((100, 100), Image.Resampling.BICUBIC),
            compressed,
            ImageEnhance.Brightness(image).enhance(1.1),
            image.convert("L"),
        ]
        assert max(bits_apart(image, copy) for copy in copies) <= duplicates.NEAR
        others = [bits_apart(image, photo(other)) for other in range(10) if other != seed]
        assert min(others) > duplicates.NEAR


@pytest.mark.parametrize("chunk", [1 << 22, 5])
def test_neighbours_are_those_of_trying_all(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(duplicates, "_CHUNK", chunk)
    random = np.random.default_rng(0)
    a = np.unique(random.integers(0, 2**63, 40, dtype=np.uint64))
    flips = [
        sum(1 << int(bit) for bit in random.choice(64, size=n % 8, replace=False)) for n in range(len(a))
    ]
    b = np.unique(
        np.concatenate([a ^ np.array(flips, np.uint64), random.integers(0, 2**63, 20, dtype=np.uint64)])
    )
    expected = {
        (i, j, (int(x) ^ int(y)).bit_count())
        for (i, x), (j, y) in itertools.product(enumerate(a.tolist()), enumerate(b.tolist()))
        if (x ^ y).bit_count() <= duplicates.NEAR
    }
    found = list(duplicates._neighbours(a, b))
    assert len(found) == len(set(found)) > 20
    assert set(found) == expected


def rows(contents: list[int], seen: list[int]) -> np.ndarray:
    columns = np.zeros(len(contents), COLUMNS)
    columns["content"], columns["seen"] = contents, seen
    return columns


def test_what_is_counted_and_listed() -> None:
    """Numbers stand for pictures here: the tens for what is seen, the units for how much it differs."""
    pictures = {"train": [10, 20, 10, 21, 30, 40, 10], "test": [20, 12, 50, 49]}
    seen = {10: 0, 20: 0xFFFF, 30: 0xFFFFFFFF, 40: 2**64 - 1, 50: 0xF0F0F0F0F0F0F0F0}
    columns = {
        split: rows(values, [seen[min(round(value / 10), 5) * 10] for value in values])
        for split, values in pictures.items()
    }

    def look(split: str, indices: list[int]) -> list[np.ndarray]:
        return [np.full((32, 32), float(pictures[split][index])) for index in indices]

    found = duplicates.find(columns, look)
    assert found.counts == {"train_exact": 2, "train_near": 1, "test_exact": 1, "test_near": 1}
    assert [(p.split, p.index, p.of, p.exact, p.difference) for p in found.pairs] == [
        ("test", 0, 1, True, 0.0),
        ("test", 1, 0, False, 2 / 255),
        ("train", 2, 0, True, 0.0),
        ("train", 6, 0, True, 0.0),
        ("train", 3, 1, False, 1 / 255),
    ]
    assert found.unseen == 0


def test_close_hashes_alone_are_no_duplicates() -> None:
    columns = {"train": rows([1, 2], [7, 7]), "test": rows([3], [7])}

    def look(split: str, indices: list[int]) -> list[np.ndarray]:
        return [np.full((32, 32), 90.0 * index + 30 * (split == "test")) for index in indices]

    assert not duplicates.find(columns, look).pairs


def test_unlikeness_is_one_minus_the_correlation() -> None:
    for seed in range(5):
        a, b = (duplicates.small(photo(n)) for n in (seed, seed + 1))
        assert duplicates.unlike(a, b) == pytest.approx(1 - np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_exposure_does_not_hide_a_copy_and_dimness_makes_none() -> None:
    one, other = (duplicates.small(photo(seed)) for seed in (0, 1))
    assert duplicates.unlike(one, 40 + 0.4 * one) < 1e-9  # some thirty levels apart
    dim = [100 + 0.1 * picture for picture in (one, other)]
    assert np.sqrt(np.mean((dim[0] - dim[1]) ** 2)) < 6
    assert duplicates.unlike(*dim) > 0.5


def test_flat_pictures_are_compared_by_their_levels() -> None:
    black, white = np.zeros((32, 32)), np.full((32, 32), 255.0)
    noisy = black + np.random.default_rng(0).random((32, 32))
    assert duplicates.unlike(black, white) == 1
    assert duplicates.unlike(black, noisy) < duplicates.ALIKE
    assert duplicates.unlike(black, duplicates.small(photo(0))) > duplicates.ALIKE


def test_thousands_of_black_images_are_compared_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def look(split: str, indices: list[int]) -> np.ndarray:
        nonlocal looked
        looked += len(indices)
        return np.zeros((len(indices), 32, 32))

    columns = {"train": rows(list(range(3000)), [0] * 3000), "test": rows([9999], [0])}
    found = duplicates.find(columns, look)
    assert found.counts == {"train_exact": 0, "train_near": 2999, "test_exact": 0, "test_near": 1}
    assert looked < 3200
    monkeypatch.setattr(duplicates, "LOOKED_AT", 100)
    assert duplicates.find(columns, look).unseen == 2900


@pytest.mark.parametrize("kind", ["webdataset", "ffcv"])
def test_planted_copies_are_found_in_sharding(lay: Callable[..., Path], encoded: Callable, kind: str) -> None:
    files = {f"train/{n}.png": encoded(photo(n)) for n in range(12)}
    files |= {f"test/{n}.png": encoded(photo(n)) for n in range(100, 106)}
    files["test/exact.png"] = files["train/3.png"]
    files["test/small.jpg"] = encoded(photo(5).resize((90, 90)), "JPEG", quality=60)
    files["train/again.png"] = files["train/7.png"]
    lay(files)
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    result = sharding.shard(sharding.Config(resolution=64, shard_size=5, format=kind), source, OUT, 0)
    found = result.duplicates
    assert found is not None
    assert (found.train_exact, found.train_near, found.test_exact, found.test_near) == (1, 0, 1, 1)
    pairs = [(pair.split, {pair.key, pair.of_key}) for pair in found.listed]
    assert pairs == [
        ("test", {"test/exact.png", "train/3.png"}),
        ("test", {"test/small.jpg", "train/5.png"}),
        ("train", {"train/7.png", "train/again.png"}),
    ]
    assert result.counts()["duplicates_test_near"] == 1
    assert "1 exact and 1 near copies of train images in test" in sharding.summary(result)
    sheet = Image.open(io.BytesIO(duplicates_sheet(OUT, result)))
    assert sheet.size == (3 * (2 * 128 + 16), 128 + 14 + 8)
    left, right = sheet.crop((0, 14, 128, 142)), sheet.crop((130, 14, 258, 142))
    assert np.asarray(left).tolist() == np.asarray(right).tolist()  # the exact pair
    assert (
        json.loads((OUT / "manifest.json").read_text())["duplicates"]["listed"][1]["key"] == "test/small.jpg"
    )


def test_not_looked_for(lay: Callable[..., Path]) -> None:
    lay("train/1.png", "train/2.png", "test/1.png")
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    result = sharding.shard(sharding.Config(duplicates=False), source, OUT, 0)
    assert result.duplicates is None
    assert "duplicates_test_exact" not in result.counts()
    assert manifest.read(OUT) == result
    assert duplicates_sheet(OUT, result).startswith(b"\x89PNG")
