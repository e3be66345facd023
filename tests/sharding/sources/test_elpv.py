from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslpipe.console.errors import UserError
from sslpipe.sharding.sources import Config, open_source, source_digest


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
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install elpv-dataset"):
        source_digest(Config(source="elpv"))


def test_a_package_without_its_list_is_named(cells: Path) -> None:
    (cells / "labels.csv").unlink()
    with pytest.raises(UserError, match=r"labels\.csv: install it again"):
        open_source(Config(source="elpv"), seed=0)
