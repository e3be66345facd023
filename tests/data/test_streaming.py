from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.data import Loader, Resident, open_split, resident
from sslpipe.data.streaming import Streaming
from sslpipe.sharding import shard as sharding
from sslpipe.sharding import sources

SHARDS = Path("data/shards")


@pytest.fixture
def shards(lay: Callable[..., Path], picture: Callable, encoded: Callable) -> Path:
    """Pictures of many sizes and kinds, grey ones and some that must be scaled down."""
    kinds = ("PNG", "JPEG", "WEBP")
    lay(
        {
            f"{'ab'[n % 2]}/{n}.png": encoded(
                picture(n, 5 + 3 * n % 30, 7 + 5 * n % 30).convert("L" if n % 5 == 0 else "RGB"), kinds[n % 3]
            )
            for n in range(40)
        }
    )
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    sharding.shard(sharding.Config(resolution=16, shard_size=6), source, SHARDS, 0)
    return SHARDS


def test_both_readers_give_the_same(shards: Path) -> None:
    for split in ("train", "test"):
        one, other = Resident(shards, split), Streaming(shards, split)
        assert (len(one), one.resolution, one.keys) == (len(other), other.resolution, other.keys)
        assert torch.equal(one.labels, other.labels)
        assert one.blocks.tolist() == other.blocks.tolist()
        places = np.random.default_rng(0).integers(0, len(one), 50)
        found, wanted = one.gather(places), other.gather(places)
        for name in ("pixels", "size", "index", "label"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name


def test_a_batch_in_use_is_not_written_over(shards: Path) -> None:
    reader = Streaming(shards, "train")
    kept = [reader.gather(np.array([n])) for n in range(len(reader))]
    expected = Resident(shards, "train").gather(np.arange(len(reader)))
    assert torch.equal(torch.cat([batch.pixels for batch in kept]), expected.pixels)
    del kept
    assert torch.equal(reader.gather(np.array([3])).pixels[0], expected.pixels[3])  # in used memory


def test_only_shards_in_use_are_checked_and_before_they_are(shards: Path) -> None:
    path = shards / "train/train-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 255
    path.write_bytes(data)
    reader = Streaming(shards, "train")
    assert len(reader.gather(np.arange(6))) == 6
    for _ in range(2):
        with pytest.raises(UserError, match=r"train-000001\.tar is not what its manifest says"):
            reader.gather(np.array([0, 7]))
    (shards / "train/train-000002.tar").unlink()
    with pytest.raises(UserError, match=r"train-000002\.tar is missing"):
        reader.gather(np.array([13]))


@pytest.mark.parametrize("place", [-1, 32])
def test_places_outside_the_split(shards: Path, place: int) -> None:
    with pytest.raises(IndexError, match="0 to 31"):
        Streaming(shards, "train").gather(np.array([0, place]))


def test_nothing_asked_for(shards: Path) -> None:
    assert len(Streaming(shards, "train").gather(np.array([], np.int64))) == 0


def test_the_reader_is_chosen_by_size(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_split(shards, "train"), Resident)
    assert isinstance(open_split(shards, "train", "streaming"), Streaming)
    monkeypatch.setattr(resident, "available_memory", lambda: 2 * 32 * 16 * 16 * 3 - 1)
    assert isinstance(open_split(shards, "train"), Streaming)
    assert isinstance(open_split(shards, "test"), Resident)
    assert isinstance(open_split(shards, "train", "resident"), Resident)
    monkeypatch.setattr(resident, "available_memory", lambda: None)
    assert isinstance(open_split(shards, "train"), Resident)


def test_large_splits_are_kept_decoded_those_of_old_data_go(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslpipe.data.loader._CACHED", 1)
    place = Path(".sslpipe/canvases")
    for name in ("old", "older"):
        (place / name).mkdir(parents=True)
    open_split(shards, "train")
    open_split(shards, "test")
    (new,) = [path for path in place.iterdir() if path.name not in ("old", "older")]
    assert len(list(place.iterdir())) == 2
    assert sorted(path.name for path in new.glob("*.u8")) == ["test.u8", "train.u8"]
    assert len(open_split(shards, "train").gather(np.arange(5))) == 5


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("reader", [Resident, Streaming])
def test_batches_are_the_same_for_every_reader_and_world(
    shards: Path, reader: type[Resident | Streaming], world: int
) -> None:
    def batches(kind: type[Resident | Streaming], ranks: int) -> list[torch.Tensor]:
        loaders = [
            Loader(
                kind(shards, "train"), batch_size=8, seed=3, shuffle_shards=2, rank=rank, world_size=ranks
            ).epoch(2, start=1)
            for rank in range(ranks)
        ]
        return [
            torch.cat([batch.pixels.flatten(1) for batch in parts]) for parts in zip(*loaders, strict=True)
        ]

    for one, other in zip(batches(Resident, 1), batches(reader, world), strict=True):
        assert torch.equal(one, other)
