from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageColor

from sslpipe.data.batch import Batch
from sslpipe.views import PatchMask, Recipe, ViewEngine, ViewSpec
from sslpipe.views.sheet import COLOURS, sheet

RECIPE = Recipe(
    views=(
        ViewSpec(name="plain", size=28, count=2, scale=(0.3, 0.5), mean=(0.2, 0.2, 0.2), std=(0.1, 0.1, 0.1)),
        ViewSpec(name="masked", size=24, mask=PatchMask(kind="multi_block", patch_size=4)),
    )
)


def batch_of(n: int, colour: tuple[int, int, int]) -> Batch:
    pixels = torch.zeros(n, 30, 30, 3, dtype=torch.uint8)
    pixels[:, :30, :20] = torch.tensor(colour, dtype=torch.uint8)
    return Batch(
        pixels=pixels,
        size=torch.tensor([[30, 20]] * n, dtype=torch.int32).reshape(n, 2),
        index=torch.arange(n),
        label=torch.full((n,), -1),
    )


def has(picture: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((np.abs(picture.astype(int) - np.array(colour)).max(axis=-1) <= 2).sum())


def test_sheet_shows_images_views_masks_and_outlines() -> None:
    red = (200, 30, 40)
    batch = batch_of(8, red)
    views = ViewEngine(RECIPE, seed=0)(batch, 0)
    picture = sheet(batch, views, images=6, cell=56)
    assert picture.mode == "RGB"
    array = np.asarray(picture)
    assert 1 < array.shape[1] / array.shape[0] < 2.4
    # Six images, each with two whole views of one colour: normalisation is undone, padding not shown.
    assert has(array, red) > 6 * 2 * 56 * 56
    assert has(array, (0, 0, 0)) == 0
    assert has(array, (176, 176, 172)) > 6 * 56 * 56 * 0.3  # hidden patches
    for colour in COLOURS[:3]:
        assert has(array, ImageColor.getrgb(colour)) > 6 * 56  # outlines and headings


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_images(n: int) -> None:
    batch = batch_of(n, (9, 9, 9))
    assert sheet(batch, ViewEngine(RECIPE, seed=0)(batch, 0)).width > 100


def test_many_views() -> None:
    recipe = Recipe(views=(ViewSpec(name="a_rather_long_name_for_a_view", size=8, count=10),))
    batch = batch_of(2, (9, 9, 9))
    assert sheet(batch, ViewEngine(recipe, seed=0)(batch, 0), cell=40).width > 10 * 40
