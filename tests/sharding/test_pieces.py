from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sslpipe.sharding import pieces
from sslpipe.sharding.config import Config
from sslpipe.sharding.pieces import Piece, Report
from sslpipe.sharding.source import File


@pytest.fixture
def piece(lay: Callable[..., Path], tmp_path: Path) -> Piece:
    root = lay("1.png", {"2.png": b"no"}, "3.png")
    items = [File(path.name, n - 1, str(path)) for n, path in enumerate(sorted(root.iterdir()))]
    config = Config(resolution=16, max_pixels=10**6, max_bytes=10**6)
    return Piece(split="train", number=4, first=20, items=items, config=config)


def test_a_report_says_what_is_where(piece: Piece, tmp_path: Path) -> None:
    report = pieces.make(piece, tmp_path)
    assert report.shard is not None
    assert (report.shard.path, report.shard.count, report.keys) == (
        "train/train-000004.tar",
        2,
        ("1.png", "3.png"),
    )
    assert [(reject.key, reject.reason) for reject in report.rejects] == [("2.png", "not an image")]
    assert report.columns["label"].tolist() == [-1, 1]
    assert report.columns[["height", "width"]].tolist() == [(12, 16)] * 2
    assert report.columns["shard"].tolist() == [4, 4]
    data = (tmp_path / report.shard.path).read_bytes()
    for row, item in zip(report.columns, (piece.items[0], piece.items[2]), strict=True):
        assert data[row["offset"] : row["offset"] + row["bytes"]] == item.read(10**6)
    assert b"000000020.png" in data  # places count the images left out: they depend on no other piece
    assert b"000000022.png" in data


def test_reports_outlive_the_process(piece: Piece, tmp_path: Path) -> None:
    made = pieces.make(piece, tmp_path, threads=3)
    path = pieces.report_path(tmp_path, piece)
    read = Report.load(path)
    assert read is not None
    for field in dataclasses.fields(Report):
        one, other = getattr(made, field.name), getattr(read, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)):
        path.write_bytes(broken)
        assert Report.load(path) is None
    path.write_bytes(whole)
    shard = tmp_path / "train/train-000004.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    assert Report.load(path) is None
    shard.unlink()
    assert Report.load(path) is None


def test_a_piece_of_nothing_has_a_report_and_no_shard(piece: Piece, tmp_path: Path) -> None:
    nothing = dataclasses.replace(piece, items=piece.items[1:2])
    report = pieces.make(nothing, tmp_path)
    assert report.shard is None
    assert len(report.columns) == len(report.keys) == 0
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["train-000004.npz"]
    read = Report.load(pieces.report_path(tmp_path, nothing))
    assert read is not None
    assert read.contents == report.contents > 0


def test_contents_add_up_in_any_order_and_tell_names_labels_and_bytes(piece: Piece, tmp_path: Path) -> None:
    def contents(*items: File) -> int:
        return pieces.make(dataclasses.replace(piece, items=items), tmp_path).contents

    a, _, c = piece.items
    assert contents(a, c) == contents(c, a) == (contents(a) + contents(c)) % 2**256
    assert contents(a) != contents(dataclasses.replace(a, label=7))
    assert contents(a) != contents(dataclasses.replace(a, key="other"))
    assert contents(a) != contents(dataclasses.replace(a, path=c.path))
