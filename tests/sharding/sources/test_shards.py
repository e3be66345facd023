from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sslpipe.console.errors import UserError
from sslpipe.sharding import sources


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
