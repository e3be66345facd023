from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.data import open_split
from sslpipe.sharding import shard as sharding
from sslpipe.sharding import sources
from sslpipe.sharding.shard import Config
from sslpipe.sharding.source import File
from sslpipe.shards import manifest, writing

Lay = Callable[..., Path]
Picture = Callable[..., Image.Image]
Encoded = Callable[..., bytes]
OUT = Path("data/shards")


def run(seed: int = 0, out: Path = OUT, **settings: object) -> manifest.Manifest:
    source = sources.open_source(sources.Config(source="folder", root="photos", test_fraction=0.5), seed)
    return sharding.shard(Config(**settings), source, out, seed)


def rejected(result: manifest.Manifest) -> dict[str, str]:
    return {reject.key: reject.reason for reject in result.rejects.listed}


def test_a_folder_becomes_shards(lay: Lay, capsys: pytest.CaptureFixture[str]) -> None:
    lay(*(f"{name}/{n}.png" for name in ("cat", "dog") for n in range(6)), "notes.txt")
    result = run(resolution=16, shard_size=4)
    assert result == manifest.read(OUT)
    assert result.classes == ("cat", "dog")
    assert result.splits.train.class_counts == result.splits.test.class_counts == (3, 3)
    assert [shard.count for shard in result.splits.train.shards] == [4, 2]
    assert (result.source.name, result.resolution, result.seed) == ("folder", 16, 0)
    assert result.rejects.model_dump() == {"count": 0, "by_reason": {}, "listed": ()}
    assert result.ignored == {".txt": 1}
    said = capsys.readouterr().err
    assert "shard: 12/12 images" in said
    assert "6 train and 6 test images of 2 classes; passed over 1 other files (.txt)" in said
    for split in ("train", "test"):
        for shard in result.split(split).shards:
            assert scratch.file_digest(OUT / shard.path) == shard.sha256


def test_what_was_put_in_comes_out(lay: Lay, picture: Picture) -> None:
    root = lay(*(f"{name}/{n}.png" for name in ("cat", "dog") for n in range(4)))
    run(resolution=16)
    for split in ("train", "test"):
        reader = open_split(OUT, split)
        batch = reader.gather(np.arange(len(reader)))
        for place, key in enumerate(reader.keys):
            canvas = np.zeros((16, 16, 3), np.uint8)
            canvas[:12, :16] = np.asarray(Image.open(root / key))
            assert (batch.pixels[place].numpy() == canvas).all()
            assert batch.label[place] == ("cat", "dog").index(key.split("/")[0])
        assert batch.size.tolist() == [[12, 16]] * len(reader)


def test_statistics_are_those_of_the_pixels(lay: Lay, picture: Picture, encoded: Encoded) -> None:
    grey = {f"{n}.png": encoded(picture(n, 9, 9).convert("L")) for n in range(5)}
    lay(grey, {f"{n}.png": encoded(picture(n, 20 + n, 30)) for n in range(5, 10)})
    result = run(resolution=16)
    reader = open_split(OUT, "train")
    batch = reader.gather(np.arange(len(reader)))
    values = np.concatenate(
        [
            p[:h, :w].reshape(-1, 3)
            for p, (h, w) in zip(batch.pixels.numpy(), batch.size.tolist(), strict=True)
        ]
    )
    assert np.allclose(result.statistics.mean, (values / 255.0).mean(0), rtol=1e-12)
    assert np.allclose(result.statistics.std, (values / 255.0).std(0), rtol=1e-12)


def test_images_of_one_colour_can_still_be_normalised(lay: Lay, encoded: Encoded) -> None:
    lay({f"{n}.png": encoded(Image.new("RGB", (9, 9), (10, 20, 30))) for n in range(4)})
    assert run().statistics.std == (1 / 255,) * 3


def test_everything_a_user_may_bring(
    lay: Lay, picture: Picture, encoded: Encoded, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {
        "a/tiny.png": encoded(picture(1, 1, 1)),
        "a/long.png": encoded(picture(2, 3, 4000)),
        "a/same.png": encoded(picture(3)),
        "b/same.png": encoded(picture(4)),
        "b/ünï 猫.jpeg": encoded(picture(5), "JPEG"),
        "b/palette.gif": encoded(picture(6).quantize(16), "GIF"),
        "b/clear.png": encoded(picture(7).convert("RGBA")),
        "b/deep.png": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
        "b/ink.jpg": encoded(picture(8).convert("CMYK"), "JPEG"),
        "b/really.png": encoded(picture(9), "JPEG"),
    }
    bad = {
        "a/diary.jpg": (b"Dear diary", "not an image"),
        "a/empty.png": (b"", "empty file"),
        "a/cut.jpg": (encoded(picture(9, 60, 60), "JPEG")[:-300], "truncated"),
        "a/huge.png": (encoded(Image.new("L", (300, 200))), "more pixels than shard.max_pixels"),
        "a/heavy.png": (encoded(picture(10)) + b"\0" * 30_000, "more bytes than shard.max_bytes"),
        "a/phone.heic": (b"\0\0\0\x18ftypheic", "format not read (.heic)"),
    }
    root = lay(good, {name: data for name, (data, _) in bad.items()})
    (root / "b" / "gone.png").symlink_to("nothing")
    (root / "b" / "linked.png").symlink_to(root / "a" / "same.png")
    result = run(max_pixels=50_000, max_bytes=30_000)
    assert rejected(result) == {
        **{name: reason for name, (_, reason) in bad.items()},
        "b/gone.png": "cannot be read: no such file or directory",
    }
    assert result.rejects.count == 7
    assert set(result.rejects.by_reason.values()) == {1}
    kept = [key for split in ("train", "test") for key in open_split(OUT, split).keys]
    assert sorted(kept) == sorted([*good, "b/linked.png"])
    assert "7 rejected (" in capsys.readouterr().err
    sizes = {
        key: tuple(size)
        for reader in (open_split(OUT, "train"), open_split(OUT, "test"))
        for key, size in zip(reader.keys, reader.gather(np.arange(len(reader))).size.tolist(), strict=True)
    }
    assert sizes["a/tiny.png"] == (1, 1)
    assert sizes["a/long.png"] == (1, 28)


def test_rejects_are_listed_up_to_a_cap(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "LISTED", 3)
    lay("1.png", "2.png", "3.png", "4.png", {f"bad{n}.jpg": b"no" for n in range(9)})
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    result = sharding.shard(Config(), source, OUT, 0)
    assert result.rejects.count == 9
    assert result.rejects.by_reason == {"not an image": 9}
    assert len(result.rejects.listed) == 3


def test_nothing_but_rejects(lay: Lay) -> None:
    lay({f"bad{n}.jpg": b"no" for n in range(4)})
    with pytest.raises(UserError, match=r"not one of the 2 train images can be used \(2 not an image, bad\d"):
        run()
    assert not (OUT / "manifest.json").exists()


def test_a_test_split_of_rejects(lay: Lay) -> None:
    lay("train/1.png", "train/2.png", {"test/1.png": b"no"})
    with pytest.raises(UserError, match="not one of the 1 test images can be used"):
        run()


def test_only_images_names_and_seed_matter(lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay(*(f"{name}/{n}.png" for name in ("cat", "dog") for n in range(9)))
    first = run(out=tmp_path / "one")
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(sharding, "cores", lambda: 7)
    assert run(out=tmp_path / "two") == first
    assert run(out=tmp_path / "two") == first  # over itself
    assert run(seed=1, out=tmp_path / "three").digest != first.digest
    (root / "cat/0.png").write_bytes((root / "cat/1.png").read_bytes())
    assert run(out=tmp_path / "four").source.digest != first.source.digest


def test_train_mixes_the_classes(lay: Lay) -> None:
    lay(*(f"{name}/{n}.png" for name in ("cat", "dog") for n in range(40)))
    run()
    labels = open_split(OUT, "train").labels
    assert 5 < int(labels[:20].sum()) < 15


def test_unlabelled_images(lay: Lay) -> None:
    lay("1.png", "2.png", "deep/3.png", "deep/4.png")
    result = run()
    assert result.classes is None
    assert not result.splits.train.labelled
    assert result.splits.train.class_counts is None
    assert open_split(OUT, "train").labels.tolist() == [-1, -1]
    assert "lie beside the folders deep" in result.notes[0]


def test_labels_of_some_images_are_kept(lay: Lay) -> None:
    root = lay(*(f"{n}.png" for n in range(6)))
    files = [File(f"{n}.png", (-1, 0, 1)[n % 3], str(root / f"{n}.png")) for n in range(6)]
    source = sources.Source("some", ("a", "b"), {"train": files, "test": files[:1]})
    result = sharding.shard(Config(), source, OUT, 0)
    assert result.splits.train.class_counts == (2, 2)
    assert open_split(OUT, "train").labels.tolist() == [-1, 0, 1, -1, 0, 1]
    assert not result.splits.test.labelled


def test_the_digits(project: Path) -> None:
    source = sources.open_source(sources.Config(), 0)
    few = sources.Source(
        name=source.name,
        classes=source.classes,
        splits={split: source.items(split)[:50] for split in sources.SPLITS},
        recipe=source.recipe,
    )
    result = sharding.shard(Config(), few, OUT, 0)
    assert result.recipe["hflip"] == 0.0
    assert json.loads((OUT / "manifest.json").read_text())["recipe"]["scale"] == [0.3, 1.0]
    reader = open_split(OUT, "test")
    expected = np.stack([item.read(0) for item in few.items("test")])
    assert (reader.gather(np.arange(50)).pixels.numpy() == expected[..., None]).all()


def test_what_other_runs_left_unfinished_goes_but_for_the_newest(project: Path) -> None:
    place = Path(".sslpipe/shard")
    for age, name in enumerate(("busy", "new", "old", "older")):
        (place / name).mkdir(parents=True)
        os.utime(place / name, (1e9 - age, 1e9 - age))
    with sharding.workplace("busy"), sharding.workplace("mine") as work:
        work.mkdir()
        assert {path.name for path in place.iterdir()} == {"busy", "mine", "new"}


def full_disk(*_: object) -> io.BufferedWriter:
    """In place of `open`: a file on a disk that is full, by the kernel's own device."""
    return open("/dev/full", "wb")


def test_a_full_disk_leaves_no_manifest(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    lay("1.png", "2.png")
    run()
    assert (OUT / "manifest.json").exists()
    monkeypatch.setattr(writing, "open", full_disk, raising=False)
    with pytest.raises(UserError, match="the disk is full"):
        run()
    assert not (OUT / "manifest.json").exists()
    with pytest.raises(UserError, match="run `dvc repro`"):
        open_split(OUT, "train")


def test_what_a_kill_left_under_temporary_names_goes(lay: Lay) -> None:
    lay("1.png", "2.png")
    run()
    expected = {path.relative_to(OUT) for path in OUT.rglob("*")}
    for name in (
        ".manifest.json.a1",
        "train/.keys.txt.b2",
        "train/.train-000000.tar.part",
        "train/train-000009.tar",
    ):
        (OUT / name).write_bytes(b"half")
    run()
    assert {path.relative_to(OUT) for path in OUT.rglob("*")} == expected


def test_a_file_in_the_way(lay: Lay) -> None:
    lay("1.png", "2.png")
    Path("data").touch()
    with pytest.raises(UserError, match=r"data/shards"):
        run()


def test_an_unreadable_file_is_a_reject_and_a_sick_machine_is_not(
    lay: Lay, encoded: Encoded, picture: Picture
) -> None:
    class Item:
        label = -1

        def __init__(self, key: str, error: OSError | None = None) -> None:
            self.key, self.error = key, error

        def read(self, limit: int) -> bytes:
            if self.error:
                raise self.error
            return encoded(picture(1))

    def source(error: OSError) -> sources.Source:
        return sources.Source("folder", None, {"train": [Item("a"), Item("b", error)], "test": [Item("c")]})

    result = sharding.shard(Config(), source(PermissionError(13, "Permission denied")), OUT, 0)
    assert rejected(result) == {"b": "cannot be read: permission denied"}
    with pytest.raises(UserError, match="reading b: Too many open files"):
        sharding.shard(Config(), source(OSError(24, "Too many open files")), OUT, 0)


def test_odd_metadata_raises_no_warning(lay: Lay, encoded: Encoded, picture: Picture) -> None:
    data = encoded(picture(1), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\x00\x01")
    lay({"1.jpg": data, "2.jpg": data})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run().rejects.count == 0
    with pytest.warns(UserWarning, match="Corrupt EXIF"):  # so there was something to be quiet about
        Image.open(io.BytesIO(data)).load()


@pytest.mark.parametrize(
    "settings",
    [{"resolution": 7}, {"shard_size": 0}, {"format": "beton"}, {"max_pixels": 0}, {"resolutions": 28}],
)
def test_settings_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config(**settings)
