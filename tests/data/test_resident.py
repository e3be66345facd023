from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sslpipe import scratch
from sslpipe.data import Resident, manifest, resident, sources
from sslpipe.data import shard as sharding
from sslpipe.errors import UserError


@pytest.fixture
def shards(lay: Callable[..., Path]) -> Path:
    lay(*(f"{name}/{n}.png" for name in "ab" for n in range(10)))
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    sharding.shard(sharding.Config(resolution=16, shard_size=6), source, Path("data/shards"), 0)
    return Path("data/shards")


def rewrite(folder: Path, *members: tuple[str, bytes], **changes: object) -> None:
    """Put another tar in the place of the test split's, with a manifest that agrees."""
    path = folder / "test/test-000000.tar"
    path.unlink()
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    value = json.loads((folder / "manifest.json").read_text())
    value["splits"]["test"]["shards"][0].update(sha256=scratch.file_digest(path), bytes=path.stat().st_size)
    value.update(changes)
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


def test_shards_that_hold_too_few_too_many_too_large_or_no_images(
    shards: Path, picture: Callable, encoded: Callable
) -> None:
    def png(number: int, side: int = 8) -> tuple[str, bytes]:
        return f"{number}.png", encoded(picture(number, side, side))

    rewrite(shards, *(png(n) for n in range(4)))
    assert Resident(shards, "test").labels.tolist() == [-1] * 4
    for number in (3, 5):
        rewrite(shards, *(png(n) for n in range(number)))
        with pytest.raises(UserError, match="does not hold the 4 samples"):
            Resident(shards, "test")
    rewrite(shards, *(png(n) for n in range(3)), png(3, 17))
    with pytest.raises(UserError, match="image 3 is bad"):
        Resident(shards, "test")
    rewrite(shards, *(png(n) for n in range(3)), ("3.png", encoded(picture(3, 2, 17))))
    with pytest.raises(UserError, match="size or label is out of range"):
        Resident(shards, "test")
    rewrite(shards, *(png(n) for n in range(4)), ("3.cls", b"2"))
    with pytest.raises(UserError, match="size or label is out of range"):
        Resident(shards, "test")
    rewrite(shards, *(png(n) for n in range(3)), ("3.png", b"no image"))
    with pytest.raises(UserError, match=r"image 3 is bad \(not an image\)"):
        Resident(shards, "test")


def test_what_does_not_fit_in_memory_is_refused_before(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resident._available_memory() is None or resident._available_memory() > 10**6
    monkeypatch.setattr(resident, "_available_memory", lambda: 16 * 16 * 16 * 3 - 1)
    with pytest.raises(UserError, match=r"the train images need .* GB of memory .* lower shard\.resolution"):
        Resident(shards, "train")
    assert len(Resident(shards, "test")) == 4
    monkeypatch.setattr(resident, "_available_memory", lambda: None)
    assert len(Resident(shards, "train")) == 16


def test_unknown_split(shards: Path) -> None:
    with pytest.raises(UserError, match="no split 'validation'"):
        Resident(shards, "validation")
