from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslpipe.recipes.official import official
from sslpipe.recipes.preview import measure, shown
from sslpipe.views import ViewEngine


def rows(name: str, reader: Any, images: int = 3, size: int = 16) -> list[dict[str, str]]:
    files = dict(shown(official(name, size, patch_size=4), reader, images, seed=5))
    assert Image.open(io.BytesIO(files["sheet.png"])).width > 100
    return list(csv.DictReader(io.StringIO(files["parameters.csv"])))


def test_a_row_for_each_image_and_view_in_the_sheets_order(toy_reader: Any) -> None:
    table = rows("dino", toy_reader)
    views = ["global1", "global2", *["local"] * 8]
    assert [row["view"] for row in table] == views * 3
    assert [row["number"] for row in table] == ["1", "1", *map(str, range(1, 9))] * 3
    assert [row["image"] for row in table[::10]] == ["image0", "image15", "image31"]  # spread over the split
    assert [row["place"] for row in table[::10]] == ["0", "15", "31"]


@pytest.mark.parametrize("name", ["simclr", "beit"])
def test_parameters_are_what_the_engine_drew(name: str, toy_reader: Any) -> None:
    recipe = official(name, 16, patch_size=4)
    engine = ViewEngine(recipe, seed=5, renderer="reference")
    batch = toy_reader.gather([0, 15, 31])
    index, size = batch.index.numpy(), batch.size.numpy()
    drawn = [t for spec in recipe.views for t in engine.tables(spec, index, size, 0)]
    for number, row in enumerate(rows(name, toy_reader)):
        n, view = divmod(number, 2)
        table, spec = drawn[view], recipe.views[view if name == "beit" else 0]
        assert [int(row[key]) for key in ("top", "left", "height", "width")] == table.box[n].tolist()
        assert (row["hflip"], row["grey"]) == (str(int(table.hflip[n])), str(int(table.grey[n])))
        assert float(row["sigma"]) == pytest.approx(table.sigma[n], abs=5e-4)
        kinds = np.array(["brightness", "contrast", "saturation", "hue"])[table.order[n]].tolist()
        if name == "beit":
            kinds.remove("hue")  # of strength 0
        applied = [part.split("=")[0] for part in row["jitter"].split()]
        assert applied == (kinds if table.jitter[n] else [])
        assert spec.jitter is not None


def test_hidden_patches_are_counted(toy_reader: Any) -> None:
    assert {row["hidden"] for row in rows("simclr", toy_reader)} == {""}
    assert {row["hidden"] for row in rows("mae", toy_reader)} == {"12"}
    for row in rows("beit", toy_reader):
        assert (row["hidden"] != "") == (row["view"] == "image")
    for row in rows("ijepa", toy_reader, size=28):
        targets = [int(count) for count in row["targets"].split()]
        assert len(targets) == 4
        assert len(set(targets)) == 1  # one size, whatever the places
        assert 0 < int(row["hidden"]) < 49


def test_measure(toy_reader: Any) -> None:
    engine = ViewEngine(official("simclr", 16), seed=0, renderer="reference")
    metrics = measure(engine, toy_reader.gather(range(8)))
    assert metrics["views_per_image"] == 2
    assert metrics["views_per_second"] > 0
    assert metrics["renderer"] == "reference"
