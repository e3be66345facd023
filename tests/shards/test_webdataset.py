from __future__ import annotations

import gc
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sslpipe.console.errors import UserError
from sslpipe.sharding import tars
from sslpipe.shards import manifest, webdataset, writing
from sslpipe.shards.images import Stored
from sslpipe.shards.manifest import Shard, ShardError
from sslpipe.shards.webdataset import Writer


@dataclass(frozen=True)
class Sample:
    label: int
    image: bytes
    extension: str


@pytest.fixture
def samples(picture: Callable, encoded: Callable) -> list[Sample]:
    kinds = [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")]
    return [Sample(n % 3, encoded(picture(n), kinds[n % 3][0]), kinds[n % 3][1]) for n in range(7)]


def stored(sample: Sample) -> Stored:
    return Stored(sample.image, sample.extension, Image.new("L", (1, 1)))


def write(path: Path, samples: Iterable[Sample]) -> Shard:
    writer = Writer(path)
    try:
        for place, sample in enumerate(samples):
            placed = writer.add(place, "name", stored(sample), sample.label)
            assert (placed.offset % 512, placed.bytes, placed.raw) == (0, len(sample.image), False)
        return writer.finish()
    finally:
        writer.abandon()


def test_there_and_back(tmp_path: Path, samples: list[Sample]) -> None:
    path = tmp_path / "train/train-000003.tar"
    shard = write(path, samples)
    assert (shard.path, shard.count) == ("train/train-000003.tar", 7)
    data = path.read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (shard.sha256, shard.bytes)
    manifest.check(path, shard.sha256)
    members = tars.scan(path, "x").members
    assert [member.key for member in members] == [f"x/{n:09d}" for n in range(7)]
    assert [member.read(10**6) for member in members] == [sample.image for sample in samples]
    assert [member.label for member in members] == [0, 1, 2, 0, 1, 2, 0]
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["train-000003.tar"]


def test_offsets_are_where_the_images_lie(tmp_path: Path, samples: list[Sample]) -> None:
    writer = Writer(tmp_path / "train/a.tar")
    offsets = [writer.add(100 + n, "name", stored(s), s.label).offset for n, s in enumerate(samples)]
    writer.finish()
    data = (tmp_path / "train/a.tar").read_bytes()
    for sample, offset in zip(samples, offsets, strict=True):
        assert data[offset : offset + len(sample.image)] == sample.image


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the package leaves its files to the collector
def test_the_webdataset_package_reads_them(tmp_path: Path, samples: list[Sample]) -> None:
    import webdataset as wds

    paths = [tmp_path / "train/a.tar", tmp_path / "train/b.tar"]
    for path, some in zip(paths, (samples[:4], samples[4:]), strict=True):
        write(path, some)
    dataset = (
        wds.WebDataset(list(map(str, paths)), shardshuffle=False)
        .decode("pil")
        .to_tuple("png;jpg;webp", "cls", "__key__")
    )
    got = list(dataset)
    gc.collect()
    assert [label for _, label, _ in got] == [sample.label for sample in samples]
    assert [key for _, _, key in got] == [f"{n:09d}" for n in (0, 1, 2, 3, 0, 1, 2)]
    for (image, _, _), sample in zip(got, samples, strict=True):
        expected = np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB"))
        assert (np.asarray(image) == expected).all()


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**9 - 1), st.sampled_from(["jpg", "png", "webp", "cls"]), st.integers(0, 8**11 - 1))
def test_headers_are_tarfiles(place: int, extension: str, size: int) -> None:
    name = f"{place:09d}.{extension}"
    member = tarfile.TarInfo(name)
    member.size = size
    assert webdataset._header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)


def test_no_label_no_file(tmp_path: Path) -> None:
    write(tmp_path / "train/a.tar", [Sample(-1, b"x", "png")])
    with tarfile.open(tmp_path / "train/a.tar") as tar:
        assert tar.getnames() == ["000000000.png"]


def test_read_only_links_of_an_earlier_run_are_not_written_through(
    tmp_path: Path, samples: list[Sample]
) -> None:
    cached = tmp_path / "cache"
    cached.write_bytes(b"cached")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.tar").hardlink_to(cached)
    write(tmp_path / "train/a.tar", samples)
    assert cached.read_bytes() == b"cached"


def full_disk(*_: object) -> io.BufferedWriter:
    """In place of `open`: a file on a disk that is full, by the kernel's own device."""
    return open("/dev/full", "wb")


def test_a_full_disk(tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "open", full_disk, raising=False)
    with pytest.raises(UserError, match=r"writing .*a\.tar: the disk is full: free some space"):
        write(tmp_path / "train/a.tar", samples)
    assert not list((tmp_path / "train").glob("*.tar"))


def test_a_read_only_disk(tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(writing, "open", refuse, raising=False)
    with pytest.raises(UserError, match="the disk is read-only: move the project"):
        write(tmp_path / "train/a.tar", samples)


def test_an_error_of_the_samples_leaves_no_part_behind(tmp_path: Path, samples: list[Sample]) -> None:
    def broken() -> Iterator[Sample]:
        yield from samples
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "train/a.tar", broken())
    assert not list((tmp_path / "train").iterdir())


def test_changed_and_missing_shards(tmp_path: Path, samples: list[Sample]) -> None:
    shard = write(tmp_path / "train/train-000000.tar", samples)
    path = tmp_path / shard.path
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match="is not what its manifest says"):
        manifest.check(path, shard.sha256)
    path.write_bytes(data[:-512])
    with pytest.raises(ShardError, match="is not what its manifest says"):
        manifest.check(path, shard.sha256)
    path.unlink()
    with pytest.raises(ShardError, match="is missing"):
        manifest.check(path, shard.sha256)
