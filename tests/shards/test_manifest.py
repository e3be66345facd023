from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.shards import manifest


def shards(split: str, *counts: int) -> list[dict[str, Any]]:
    return [
        {
            "path": f"{split}/{split}-{place:06d}.tar",
            "sha256": scratch.digest([split, place]),
            "bytes": 10240,
            "count": count,
        }
        for place, count in enumerate(counts)
    ]


INDEX = scratch.digest("index")


def example() -> dict[str, Any]:
    splits = {
        "train": {
            "count": 7,
            "labelled": True,
            "class_counts": [4, 3],
            "shards": shards("train", 5, 2),
            "index": INDEX,
        },
        "test": {
            "count": 2,
            "labelled": False,
            "class_counts": None,
            "shards": shards("test", 2),
            "index": INDEX,
        },
    }
    return {
        "format": 1,
        "source": {"name": "folder", "digest": scratch.digest("x")},
        "resolution": 28,
        "seed": 3,
        "classes": ["cat", "猫"],
        "splits": splits,
        "statistics": {"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.3, 0.3]},
        "recipe": {"hflip": 0.0, "scale": [0.3, 1.0]},
        "rejects": {
            "count": 1,
            "by_reason": {"truncated": 1},
            "listed": [{"key": "a", "reason": "truncated"}],
        },
        "duplicates": None,
        "notes": [],
        "ignored": {},
        "digest": manifest.shards_digest(manifest.Splits.model_validate(splits)),
    }


def test_there_and_back(tmp_path: Path) -> None:
    manifest.write(tmp_path, manifest.Manifest.model_validate(example()))
    assert json.loads((tmp_path / "manifest.json").read_text()) == example()
    read = manifest.read(tmp_path)
    assert read == manifest.Manifest.model_validate(example())
    assert read.split("train").count == 7
    with pytest.raises(UserError, match="no split 'val'"):
        read.split("val")


def change(value: dict[str, Any], path: str, new: object) -> None:
    *parents, last = path.split(".")
    for part in parents:
        value = value[int(part)] if isinstance(value, list) else value[part]
    value[last] = new


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("format", 2),
        ("resolution", 0),
        ("extra", 1),
        ("splits.train.count", 8),
        ("splits.train.class_counts", [4, 4]),
        ("splits.train.class_counts", [0, 0]),
        ("splits.train.class_counts", [7]),
        ("splits.train.class_counts", None),
        ("splits.train.labelled", False),
        ("splits.test.count", 0),
        ("splits.train.shards.0.path", "../train-000000.tar"),
        ("splits.train.shards.0.path", "/etc/passwd.tar"),
        ("splits.train.shards.0.path", "train/../../x.tar"),
        ("splits.train.shards.0.sha256", "0" * 64),
        ("splits.train.shards.0.sha256", "z" * 64),
        ("statistics.std", [0.3, 0.0, 0.3]),
        ("digest", "0" * 64),
    ],
)
def test_a_manifest_that_does_not_add_up(tmp_path: Path, path: str, new: object) -> None:
    value = example()
    change(value, path, new)
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"manifest\.json is damaged \(.*\): run `dvc repro`"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", json.dumps(example())[:-40]])
def test_a_damaged_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        manifest.read(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*manifest\.json: run `dvc repro`"):
        manifest.read(tmp_path)
