from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sslpipe.console.errors import UserError
from sslpipe.sharding.layout import arrange
from sslpipe.sharding.scan import printable, scan

Lay = Callable[..., Path]


def test_what_is_looked_at(lay: Lay) -> None:
    root = lay(
        "a.JPG", "b.heic", "notes.txt", "more.txt", "README", ".hidden.png", "__MACOSX/c.png", ".git/d.png"
    )
    os.mkfifo(root / "pipe.png")
    found = scan(root)
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
    found = scan(root)
    assert [(image.path, image.size > 0) for image in found.images] == [
        ("a/1.png", True),
        ("a/gone.png", False),
        ("a/self.png", False),
        ("b/2.png", True),
    ]


def test_the_digest_sees_names_sizes_and_times(lay: Lay) -> None:
    root = lay("a/1.png", "b/1.png")
    seen = [scan(root).summary()["digest"]]
    assert scan(root).summary()["digest"] == seen[0]
    (root / "notes.txt").touch()
    assert scan(root).summary()["digest"] == seen[0]
    os.utime(root / "a/1.png", ns=(1, 1))
    seen.append(scan(root).summary()["digest"])
    (root / "a/1.png").rename(root / "a/2.png")
    seen.append(scan(root).summary()["digest"])
    (root / "a/2.png").write_bytes(b"other")
    os.utime(root / "a/2.png", ns=(1, 1))
    seen.append(scan(root).summary()["digest"])
    assert len(set(seen)) == 4


def test_names_of_any_bytes(lay: Lay) -> None:
    root = lay("猫/é.png")
    odd = os.fsdecode(b"caf\xe9")
    (root / odd).mkdir()
    (root / odd / "1.png").write_bytes(b"x")
    found = scan(root)
    assert arrange(found).classes == (odd, "猫")
    assert printable(odd) == "caf\ufffd"
    assert len(found.summary()["digest"]) == 64


def test_a_folder_that_cannot_be_listed(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay("a/1.png")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"listing .*/a: permission denied: check the owner"):
        scan(root)


def test_empty_folders(lay: Lay) -> None:
    root = lay()
    with pytest.raises(UserError, match=r"no image in .*photos, it is empty; images are files that end in"):
        scan(root)
    (root / "a").mkdir()
    (root / "a" / "table.csv").touch()
    with pytest.raises(UserError, match=r"only other files \(1 \.csv\)"):
        scan(root)
