from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslpipe.console.errors import UserError
from sslpipe.data import Resident
from sslpipe.data.streaming import Streaming
from sslpipe.sharding import shard as sharding
from sslpipe.sharding import sources
from sslpipe.shards import beton, index, writing
from sslpipe.shards.images import Stored, store

JPEG = 16  # levels by which FFCV, which is quick with colours, may differ from an exact decoder
#: What FFCV itself makes of a file: every row by its reader, and by its loader where images are of one size.
FFCV = """
import json, sys
import numpy as np
from ffcv.fields.decoders import BytesDecoder, IntDecoder, SimpleRGBImageDecoder
from ffcv.libffcv import imdecode
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader

def main(path, out):
    reader = Reader(path)
    sizes = dict(zip(reader.alloc_table["ptr"].tolist(), reader.alloc_table["size"].tolist()))
    file, rows, pictures = np.fromfile(path, np.uint8), [], []
    for image, label, key in reader.metadata:
        pointer, shape = int(image["data_ptr"]), (int(image["height"]), int(image["width"]), 3)
        data = file[pointer : pointer + sizes[pointer]]
        if image["mode"]:
            picture = data.reshape(shape)
        else:
            picture = np.zeros(shape, np.uint8)
            imdecode(data, picture, shape[0], shape[1], shape[0], shape[1], 0, 0, 1, 1, False, False)
        pictures.append(picture)
        name = file[int(key["ptr"]) : int(key["ptr"]) + int(key["size"])].tobytes().decode()
        rows.append([name, int(label), int(image["mode"])])
    kept = {f"image{n}": picture for n, picture in enumerate(pictures)}
    if len({picture.shape for picture in pictures}) == 1:
        pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()], "key": [BytesDecoder()]}
        loader = Loader(path, batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
        batches = [(np.array(image), np.array(label)) for image, label, _ in loader]
        kept["loaded"], kept["labels"] = (np.concatenate(column) for column in zip(*batches))
    np.savez(out, rows=json.dumps(rows), names=reader.field_names, **kept)

main(*sys.argv[1:])
"""


def by_ffcv(path: Path) -> dict[str, np.ndarray]:
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    out = path.with_suffix(".npz")
    subprocess.run([sys.executable, "-W", "ignore", "-c", FFCV, str(path), str(out)], check=True)
    with np.load(out) as file:
        return dict(file)


@pytest.fixture
def photos(lay: Callable[..., Path], picture: Callable, encoded: Callable) -> Path:
    kinds = ("PNG", "JPEG", "WEBP")
    return lay(
        {
            f"{'ab'[n % 2]}/{n}.png": encoded(
                picture(n, 5 + 3 * n % 30, 7 + 5 * n % 30).convert("L" if n % 5 == 0 else "RGB"), kinds[n % 3]
            )
            for n in range(30)
        }
    )


def shard(out: str, **settings: object) -> Path:
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    sharding.shard(sharding.Config(resolution=16, shard_size=8, **settings), source, Path(out), 0)
    return Path(out)


def test_both_formats_give_the_same_batches(photos: Path) -> None:
    one = shard("tars")
    for folder in (shard("betons", format="ffcv"), shard("pixels", format="ffcv", pixels=True)):
        for split in ("train", "test"):
            for kind in (Resident, Streaming):
                reader, other = kind(one, split), kind(folder, split)
                assert reader.keys == other.keys
                places = np.arange(len(reader))
                one_batch, other_batch = reader.gather(places), other.gather(places)
                for name in ("pixels", "size", "index", "label"):
                    value = getattr(one_batch, name)
                    if name != "pixels" or folder.name == "betons":
                        assert torch.equal(value, getattr(other_batch, name)), name
                # A photograph scaled down is a JPEG in a tar: kept as pixels, it has not been through that.
                apart = (one_batch.pixels.int() - other_batch.pixels.int()).abs()
                assert apart.max() <= 40
                assert apart.float().mean() < 1
    assert sorted(path.name for path in (folder / "train").glob("*.beton")) == [
        f"train-00000{n}.beton" for n in range(3)
    ]


@pytest.mark.parametrize("pixels", [False, True])
def test_ffcv_reads_what_is_written(photos: Path, pixels: bool) -> None:
    folder = shard("betons", format="ffcv", pixels=pixels)
    reader, seen = Resident(folder, "train"), by_ffcv(folder / "train/train-000001.beton")
    rows = json.loads(str(seen["rows"]))
    assert seen["names"].tolist() == ["image", "label", "key"]
    batch = reader.gather(np.arange(8, 16))
    assert [row[:2] for row in rows] == [[reader.keys[8 + n], int(batch.label[n])] for n in range(8)]
    assert {row[2] for row in rows} == ({1} if pixels else {0, 1})
    for n, (height, width) in enumerate(batch.size.tolist()):
        apart = np.abs(seen[f"image{n}"].astype(int) - batch.pixels[n, :height, :width].numpy())
        assert apart.max() <= (0 if rows[n][2] else JPEG)
        assert apart.mean() < 4


def test_ffcvs_loader_reads_them(lay: Callable[..., Path], picture: Callable, encoded: Callable) -> None:
    lay({f"{'ab'[n % 2]}/{n}.jpg": encoded(picture(n, 16, 16), "JPEG") for n in range(20)})
    folder = shard("betons", format="ffcv")
    reader, seen = Resident(folder, "train"), by_ffcv(folder / "train/train-000000.beton")
    batch = reader.gather(np.arange(8))
    assert np.abs(seen["loaded"].astype(int) - batch.pixels.numpy()).max() <= JPEG
    assert seen["labels"].flatten().tolist() == batch.label.tolist()


def samples(count: int, side: int) -> list[Stored]:
    random = np.random.default_rng(0)
    return [
        store(random.integers(0, 256, (side, side, 3), np.uint8), resolution=side, max_pixels=10**8)
        for _ in range(count)
    ]


def write(path: Path, stored: list[Stored], side: int, capacity: int = 0) -> beton.Writer:
    writer = beton.Writer(path, capacity or len(stored), side, False)
    for n, each in enumerate(stored):
        writer.add(n, f"image {n}", each, n)
    writer.finish()
    return writer


def test_more_than_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are full to the last image that fits; all of a sample is in one; room for rejects stays empty."""
    monkeypatch.setattr(beton, "_PAGE", 1 << 14)
    stored = samples(20, 40)  # 4 800 bytes each: three a page
    writer = write(tmp_path / "train/a.beton", stored, 40, capacity=25)
    assert writer.page_size == 1 << 14
    pages = [pointer >> 14 for _, pointer, _ in writer.allocations]
    assert pages[0::2] == pages[1::2] == [1 + n // 3 for n in range(20)]
    seen = by_ffcv(tmp_path / "train/a.beton")
    for n, each in enumerate(stored):
        assert (seen[f"image{n}"] == np.asarray(each.image)).all()
    assert (seen["loaded"] == np.stack([np.asarray(each.image) for each in stored])).all()


def test_an_image_larger_than_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beton, "_PAGE", 1 << 14)
    writer = write(tmp_path / "train/a.beton", samples(2, 100), 100)
    assert writer.page_size == 1 << 16
    assert writer.path.stat().st_size > 2 << 16


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"train/{name}.beton", samples(5, 20), 20)
    assert (tmp_path / "train/a.beton").read_bytes() == (tmp_path / "train/b.beton").read_bytes()


def full_disk(*_: object) -> io.BufferedWriter:
    return open("/dev/full", "wb")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "open", full_disk, raising=False)
    writer = beton.Writer(tmp_path / "train/a.beton", 4, 8, True)
    writer.add(0, "x", Stored(b"", "png", Image.new("RGB", (8, 8))), -1)
    with pytest.raises(UserError, match=r"writing .*a\.beton: the disk is full"):
        writer.finish()
    writer.abandon()
    assert not list((tmp_path / "train").iterdir())


def test_pixels_whose_number_does_not_fit(photos: Path) -> None:
    folder = shard("betons", format="ffcv", pixels=True)
    rows = np.load(index.path(folder, "test"))
    rows["bytes"][2] = 30
    value = json.loads((folder / "manifest.json").read_text())
    value["splits"]["test"]["index"] = index.write(folder, "test", rows)
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="does not fit its manifest"):
        Resident(folder, "test")
