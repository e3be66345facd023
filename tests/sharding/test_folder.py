from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sslpipe.console.errors import UserError
from sslpipe.sharding import folder

Lay = Callable[..., Path]


def arranged(root: Path) -> folder.Arrangement:
    return folder.arrange(folder.scan(root))


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


def test_what_is_looked_at(lay: Lay) -> None:
    root = lay(
        "a.JPG", "b.heic", "notes.txt", "more.txt", "README", ".hidden.png", "__MACOSX/c.png", ".git/d.png"
    )
    os.mkfifo(root / "pipe.png")
    found = folder.scan(root)
    assert [image.path for image in found.images] == ["a.JPG", "b.heic"]
    assert found.ignored == {".txt": 2, "no extension": 1}


def test_links_are_followed_and_loops_are_not(lay: Lay, project: Path) -> None:
    root = lay("a/1.png")
    (project / "elsewhere").mkdir()
    (project / "elsewhere" / "2.png").write_bytes(b"x")
    (root / "b").symlink_to(project / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self.png").symlink_to("self.png")
    (root / "a" / "gone.png").symlink_to(root / "nothing")
    found = folder.scan(root)
    assert [(image.path, image.size > 0) for image in found.images] == [
        ("a/1.png", True),
        ("a/gone.png", False),
        ("a/self.png", False),
        ("b/2.png", True),
    ]


def test_the_digest_sees_names_sizes_and_times(lay: Lay) -> None:
    root = lay("a/1.png", "b/1.png")
    seen = [folder.scan(root).digest()]
    assert folder.scan(root).digest() == seen[0]
    (root / "notes.txt").touch()
    assert folder.scan(root).digest() == seen[0]
    os.utime(root / "a/1.png", ns=(1, 1))
    seen.append(folder.scan(root).digest())
    (root / "a/1.png").rename(root / "a/2.png")
    seen.append(folder.scan(root).digest())
    (root / "a/2.png").write_bytes(b"other")
    os.utime(root / "a/2.png", ns=(1, 1))
    seen.append(folder.scan(root).digest())
    assert len(set(seen)) == 4


def test_names_of_any_bytes(lay: Lay) -> None:
    root = lay("猫/é.png")
    odd = os.fsdecode(b"caf\xe9")
    (root / odd).mkdir()
    (root / odd / "1.png").write_bytes(b"x")
    found = folder.scan(root)
    assert folder.arrange(found).classes == (odd, "猫")
    assert folder.printable(odd) == "caf\ufffd"
    assert len(found.digest()) == 64


def test_a_folder_that_cannot_be_listed(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay("a/1.png")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"listing .*/a: permission denied: check the owner"):
        folder.scan(root)


def test_empty_folders(lay: Lay) -> None:
    root = lay()
    with pytest.raises(UserError, match=r"no image in .*photos, it is empty; images are files that end in"):
        folder.scan(root)
    (root / "a").mkdir()
    (root / "a" / "table.csv").touch()
    with pytest.raises(UserError, match=r"only other files \(1 \.csv\)"):
        folder.scan(root)


def test_roots(lay: Lay, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay("a.png")
    assert folder.resolve_root("photos") == root
    assert folder.resolve_root(str(root)) == root
    monkeypatch.setenv("HOME", str(project))
    assert folder.resolve_root("~/photos") == root
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir("/")
    assert folder.resolve_root("photos") == root


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
        folder.resolve_root(name)
