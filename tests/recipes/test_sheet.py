from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ImageColor

from sslpipe.data.batch import Batch
from sslpipe.recipes.sheet import COLOURS, sheet
from sslpipe.views import PatchMask, Recipe, ViewEngine, ViewSpec

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
    assert 0.8 < array.shape[1] / array.shape[0] < 2.4  # one block of six or two of three
    # Six images, each with two whole views of one colour: normalisation is undone, padding not shown.
    assert has(array, red) > 6 * 2 * 56 * 56
    assert has(array, (0, 0, 0)) == 0
    assert has(array, (176, 176, 172)) > 6 * 56 * 56 * 0.3  # hidden patches
    for colour in COLOURS[:3]:
        assert has(array, ImageColor.getrgb(colour)) > 4 * 56  # outlines and headings


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_images(n: int) -> None:
    batch = batch_of(n, (9, 9, 9))
    assert sheet(batch, ViewEngine(RECIPE, seed=0)(batch, 0)).width > 100


@pytest.mark.parametrize("count", [4, 5, 10])
def test_many_views_stand_in_two_lines_each_with_a_colour(count: int) -> None:
    grey = (90, 90, 90)
    recipe = Recipe(
        views=(ViewSpec(name="a_rather_long_name_for_a_view", size=8, count=count, scale=(0.1, 0.3)),)
    )
    batch = batch_of(2, grey)
    array = np.asarray(sheet(batch, ViewEngine(recipe, seed=0, renderer="reference")(batch, 0), cell=40))
    assert has(array, grey) > 2 * count * 40 * 40  # every view is there
    lines = 1 if count == 4 else 2
    assert array.shape[1] >= lines * 40 + -(-count // lines) * 40
    for colour in COLOURS[:count]:
        assert has(array, ImageColor.getrgb(colour)) > 2 * 40


def test_views_of_one_crop_share_an_outline() -> None:
    specs = (
        ViewSpec(name="image", size=28, scale=(0.3, 0.5)),
        ViewSpec(name="tokenizer", size=14, share="image"),
    )
    batch = batch_of(3, (90, 90, 90))
    array = np.asarray(sheet(batch, ViewEngine(Recipe(views=specs), seed=0, renderer="reference")(batch, 0)))
    assert has(array, ImageColor.getrgb(COLOURS[0])) > 0
    assert has(array, ImageColor.getrgb(COLOURS[1])) == 0


def test_context_and_targets_are_both_shown() -> None:
    green = (20, 160, 60)
    spec = ViewSpec(name="view", size=28, mask=PatchMask(kind="multi_block", patch_size=4))
    batch = batch_of(4, green)
    (view,) = ViewEngine(Recipe(views=(spec,)), seed=0, renderer="reference")(batch, 0)
    assert view.masks is not None
    array = np.asarray(sheet(batch, [view], cell=56))
    patch = (56 // 7) ** 2
    context = patch * int((~view.masks[:, 0]).sum())
    targets = patch * int(view.masks[:, 1:].any(dim=1).sum())
    originals = 4 * 56 * round(56 * 20 / 30)
    # Frames cover a little of the targets, outlines a little of the originals.
    assert 0.75 * (context + targets + originals) < has(array, green) < context + targets + originals
    for colour in COLOURS[1:5]:
        assert has(array, ImageColor.getrgb(colour)) > 0  # a frame for each target
