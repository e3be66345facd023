from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sslpipe.sharding.layout import Arrangement, arrange
from sslpipe.sharding.scan import scan

Lay = Callable[..., Path]


def arranged(root: Path) -> Arrangement:
    return arrange(scan(root))


def test_class_folders(lay: Lay) -> None:
    found = arranged(lay("dog/a.png", "cat/a.png", "cat/deep/b.png"))
    assert found.classes == ("cat", "dog")
    assert found.train == (("cat/a.png", "cat"), ("cat/deep/b.png", "cat"), ("dog/a.png", "dog"))
    assert found.test is None
    assert found.notes == ()


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
def test_split_folders(lay: Lay, test: str) -> None:
    found = arranged(lay("train/b/1.png", "train/a/1.png", f"{test}/b/1.png", "train/a/2.png"))
    assert found.classes == ("a", "b")
    assert found.train == (("train/a/1.png", "a"), ("train/a/2.png", "a"), ("train/b/1.png", "b"))
    assert found.test == ((f"{test}/b/1.png", "b"),)


def test_test_is_preferred_to_val_and_the_rest_is_told(lay: Lay) -> None:
    found = arranged(lay("train/a/1.png", "train/b/1.png", "val/a/1.png", "test/a/2.png"))
    assert found.test == (("test/a/2.png", "a"),)
    assert found.notes == ("1 images outside train/ and test/ are not used",)


def test_training_images_may_lack_labels(lay: Lay) -> None:
    found = arranged(lay("train/1.png", "train/2.png", "test/a/1.png", "test/b/1.png"))
    assert found.train == (("train/1.png", None), ("train/2.png", None))
    assert found.test == (("test/a/1.png", "a"), ("test/b/1.png", "b"))
    assert found.classes == ("a", "b")


def test_a_class_only_tested_is_told(lay: Lay) -> None:
    found = arranged(lay("train/a/1.png", "train/b/2.png", "test/c/1.png"))
    assert found.classes == ("a", "b", "c")
    assert found.notes == ("classes with test images but none to train on: c",)


@pytest.mark.parametrize(
    "names",
    [("1.png", "2.png"), ("one/1.png", "one/2.png"), ("one/two/1.png",), ("train/1.png", "train/2.png")],
)
def test_images_without_labels(lay: Lay, names: tuple[str, ...]) -> None:
    found = arranged(lay(*names))
    assert found.classes is None
    assert found.train == tuple((name, None) for name in names)
    assert found.notes == ()


def test_images_beside_folders_take_the_labels_away_and_that_is_told(lay: Lay) -> None:
    found = arranged(lay("a/1.png", "b/1.png", "stray.png"))
    assert found.classes is None
    assert len(found.notes) == 1
    assert "1 images lie beside the folders a, b" in found.notes[0]


def test_an_unpacked_archive_is_stepped_into(lay: Lay) -> None:
    found = arranged(lay("photos-1.0/train/a/1.png", "photos-1.0/train/b/1.png", "photos-1.0/test/a/1.png"))
    assert found.classes == ("a", "b")
    assert (len(found.train), len(found.test or ())) == (2, 1)


def test_train_may_be_a_class(lay: Lay) -> None:
    assert arranged(lay("bus/1.png", "train/1.png")).classes == ("bus", "train")


def test_class_folders_without_images_are_told(lay: Lay) -> None:
    root = lay("cat/a.png", "dog/a.png", "eel/notes.txt")
    (root / "fox" / "young").mkdir(parents=True)
    found = arranged(root)
    assert found.classes == ("cat", "dog")
    assert found.notes == ("folders without images: eel, fox",)
