from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.data import Resident, resident
from sslpipe.sharding import shard as sharding
from sslpipe.sharding import sources
from sslpipe.shards import index, manifest


@pytest.fixture
def shards(lay: Callable[..., Path]) -> Path:
    lay(*(f"{name}/{n}.png" for name in "ab" for n in range(10)))
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    sharding.shard(sharding.Config(resolution=16, shard_size=6), source, Path("data/shards"), 0)
    return Path("data/shards")


def tampered(folder: Path, place: int, data: bytes | None = None, **columns: int) -> None:
    """Put other bytes or other columns in the place of one of the test split's images, and let all digests agree."""
    value = json.loads((folder / "manifest.json").read_text())
    split = value["splits"]["test"]
    path = folder / split["shards"][0]["path"]
    rows = np.load(index.path(folder, "test"))
    if data is not None:
        with open(path, "r+b") as file:
            file.seek(rows["offset"][place])
            file.write(data)
        columns["bytes"] = len(data)
        split["shards"][0]["sha256"] = scratch.file_digest(path)
    for name, number in columns.items():
        rows[name][place] = number
    split["index"] = index.write(folder, "test", rows)
    value["digest"] = manifest.shards_digest(manifest.Splits.model_validate(value["splits"]))
    (folder / "manifest.json").write_text(json.dumps(value))


def test_gather(shards: Path) -> None:
    reader = Resident(shards, "train")
    assert (len(reader), reader.resolution) == (16, 16)
    batch = reader.gather(np.array([5, 0, 5, 15]))
    assert batch.index.tolist() == [5, 0, 5, 15]
    assert torch.equal(batch.pixels[0], batch.pixels[2])
    assert torch.equal(batch.label, reader.labels[[5, 0, 5, 15]])
    again = reader.gather(torch.tensor([0]))
    assert torch.equal(again.pixels[0], batch.pixels[1])
    assert again.size.tolist() == [[12, 16]]
    assert len(reader.gather(np.array([], dtype=np.int64))) == 0


def test_a_batch_is_a_copy(shards: Path) -> None:
    reader = Resident(shards, "train")
    before = reader.gather(np.array([3])).pixels.clone()
    reader.gather(np.array([3])).pixels.zero_()
    assert before.any()
    assert torch.equal(reader.gather(np.array([3])).pixels, before)


@pytest.mark.parametrize("place", [-1, 16])
def test_places_outside_the_split(shards: Path, place: int) -> None:
    with pytest.raises(IndexError, match="0 to 15"):
        Resident(shards, "train").gather(np.array([0, place]))


def test_a_changed_shard_is_refused(shards: Path) -> None:
    path = shards / "train/train-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-000001\.tar is not what its manifest says"):
        Resident(shards, "train")
    assert len(Resident(shards, "test")) == 4


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_another_kind_than_the_index_says(shards: Path) -> None:
    """Digests do not help where someone made them agree: nothing is read that is not an image of that size."""
    tampered(shards, 1, png(12, 16))
    assert Resident(shards, "test").gather(np.array([1])).pixels[0, 11, 15].tolist() == [255, 0, 0]
    for data, message in (
        (b"no image", r"image 1 is bad \(not an image\)"),
        (png(12, 16)[:50], r"image 1 is bad \(damaged\)"),
        (png(9, 16), "image 1 is not of the size"),
        (png(17, 16), r"image 1 is bad \(more pixels|image 1 is bad \(not as it was stored\)"),
        (png(2, 17), r"image 1 is bad \(not as it was stored\)"),
    ):
        tampered(shards, 1, data)
        with pytest.raises(UserError, match=message):
            Resident(shards, "test")


@pytest.mark.parametrize(
    "column",
    [
        {"shard": 1},
        {"height": 17},
        {"width": 17},
        {"height": 0},
        {"label": 2},
        {"label": -2},
        {"bytes": 2**31},
    ],
)
def test_an_index_that_cannot_be(shards: Path, column: dict[str, int]) -> None:
    tampered(shards, 2, **column)
    with pytest.raises(UserError, match="does not fit its manifest"):
        Resident(shards, "test")


def test_a_label_where_there_are_no_classes(lay: Callable[..., Path]) -> None:
    lay(*(f"{n}.png" for n in range(10)))
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    sharding.shard(sharding.Config(resolution=16), source, Path("data/shards"), 0)
    tampered(Path("data/shards"), 0, label=0)
    with pytest.raises(UserError, match="does not fit its manifest"):
        Resident(Path("data/shards"), "test")


def test_an_offset_beyond_the_shard(shards: Path) -> None:
    tampered(shards, 2, offset=2**40)
    with pytest.raises(UserError, match="is cut short"):
        Resident(shards, "test")


def test_a_changed_index_is_refused(shards: Path) -> None:
    path = index.path(shards, "train")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"index\.npy is not what its manifest says"):
        Resident(shards, "train")
    path.unlink()
    with pytest.raises(UserError, match=r"index\.npy is missing"):
        Resident(shards, "train")


def test_the_cache_holds_the_same_and_spares_the_decoding(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, cache = Resident(shards, "train"), tmp_path / "cache" / "train.u8"
    made = Resident(shards, "train", cache=cache)
    assert torch.equal(made.pixels, plain.pixels)
    assert cache.stat().st_size == 16 * 16 * 16 * 3
    monkeypatch.setattr(Resident, "_fill_shown", None)  # would raise
    mapped = Resident(shards, "train", cache=cache)
    assert torch.equal(mapped.gather(np.arange(16)).pixels, plain.pixels)
    mapped.pixels.zero_()  # the process's own, not the file's
    assert torch.equal(Resident(shards, "train", cache=cache).pixels, plain.pixels)


def test_a_cache_left_unfinished_is_made_again(shards: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "train.u8"
    cache.parent.mkdir()
    cache.write_bytes(b"half")
    cache.with_suffix(".part").write_bytes(b"killed here")
    assert torch.equal(Resident(shards, "train", cache=cache).pixels, Resident(shards, "train").pixels)


def test_what_does_not_fit_in_memory_is_refused_before(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resident.available_memory() is None or resident.available_memory() > 10**6
    monkeypatch.setattr(resident, "available_memory", lambda: 16 * 16 * 16 * 3 - 1)
    with pytest.raises(UserError, match=r"the train images need .* GB of memory .* lower shard\.resolution"):
        Resident(shards, "train")
    assert len(Resident(shards, "test")) == 4
    monkeypatch.setattr(resident, "available_memory", lambda: None)
    assert len(Resident(shards, "train")) == 16


def test_unknown_split(shards: Path) -> None:
    with pytest.raises(UserError, match="no split 'validation'"):
        Resident(shards, "validation")
