from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sslpipe.console.errors import UserError
from sslpipe.sharding.sources import SPLITS, Config, Source, open_source, source_digest
from sslpipe.sharding.sources.folder import resolve_root

Lay = Callable[..., Path]


def folder(**settings: object) -> Config:
    return Config(source="folder", root="photos", **settings)


def keys(source: Source, split: str) -> list[str]:
    return [item.key for item in source.items(split)]


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
    item = next(item for split in SPLITS for item in source.items(split) if item.key == "a.png")
    assert item.read(10) == b"0123456789"
    assert item.read(4) == b"01234"


def test_digest_of_a_folder(lay: Lay) -> None:
    lay({"a/1.png": b"12345", "b/1.png": b"123"})
    found = source_digest(folder())
    assert {**found, "digest": ""} == {"source": "folder", "digest": "", "count": 2, "bytes": 8}
    lay("c.png")
    assert source_digest(folder())["digest"] != found["digest"]


def test_roots(lay: Lay, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay("a.png")
    assert resolve_root("photos") == root
    assert resolve_root(str(root)) == root
    monkeypatch.setenv("HOME", str(project))
    assert resolve_root("~/photos") == root
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir("/")
    assert resolve_root("photos") == root


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photo", r"there is no folder .*/photo, did you mean .*/photos\?"),
        ("fotos/raw", r"there is no folder .*/fotos/raw, did you mean .*/photos\?"),
        ("else", "there is no folder .*nothing called else in it"),
        ("photos/a.png", "is a file, not a folder"),
        (".", "holds this project itself"),
        ("..", "holds this project itself"),
        ("~nobody-here/x", "home folder"),
    ],
)
def test_roots_that_cannot_be(lay: Lay, name: str, message: str) -> None:
    lay("a.png")
    with pytest.raises(UserError, match=message):
        resolve_root(name)
