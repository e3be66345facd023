from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sslpipe.data.batch import Batch
from sslpipe.views import Recipe, View, ViewEngine, ViewSpec, matches
from sslpipe.views.drawing import draw
from sslpipe.views.geometry import to_canvas
from sslpipe.views.render.reference import render
from sslpipe.views.table import Table

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
WILD = ViewSpec(
    name="wild", size=24, count=2, scale=(0.2, 1), vflip=0.5, rotation=40, quarter_turns=True, **RAW
)


def ramp(resolution: int) -> torch.Tensor:
    """A canvas whose red is x and whose green is y, in 255ths."""
    line = torch.arange(resolution, dtype=torch.uint8)
    x, y = line.expand(resolution, -1), line[:, None].expand(-1, resolution)
    return torch.stack((x, y, torch.zeros_like(x)), dim=-1)[None]


@pytest.mark.parametrize(
    "spec",
    [
        WILD.model_copy(update={"rotation": 0.0}),
        WILD,
        WILD.model_copy(update={"size": 100, "interpolation": "bicubic"}),
        WILD.model_copy(update={"size": 7, "hflip": 1.0, "vflip": 0.0, "quarter_turns": False}),
    ],
    ids=["straight", "rotated", "enlarged", "small"],
)
def test_pixels_come_from_where_the_map_says(spec: ViewSpec) -> None:
    # Resampling keeps a linear ramp linear away from borders, so a pixel's colour is its place.
    n, resolution, size = 60, 120, spec.size
    sizes = np.full((n, 2), resolution, dtype=np.int32)
    table = draw(spec, seed=1, epoch=0, index=np.arange(n), view=0, size=sizes)
    one = table.change(source=np.zeros(n, dtype=np.int64))
    view = render(ramp(resolution), one, spec).double()[:, :2] * 255  # [n, (x, y), S, S]
    maps = torch.from_numpy(to_canvas(table, size))
    line = torch.arange(size, dtype=torch.float64)
    points = torch.stack((line.expand(size, -1), line[:, None].expand(-1, size), torch.ones(size, size)))
    places = torch.einsum("nij,jhw->nihw", maps, points.double())
    # Only where the filter stays within the crop and, rotated, within the image.
    reach = (2 * torch.linalg.matrix_norm(maps[:, :, :2], ord=2).clamp(min=1) + 3)[:, None, None]
    inside = ((places > reach[:, None]) & (places < resolution - 1 - reach[:, None])).all(dim=1)
    margin = math.ceil(size * 0.25)
    inside[:, :margin] = inside[:, -margin:] = False
    inside[:, :, :margin] = inside[:, :, -margin:] = False
    assert inside.float().mean() > 0.05
    # Weights of a shrinking filter are not quite balanced about their middle, so a few hundredths remain;
    # half a pixel, which a wrong convention would cost, does not.
    error = (view - places).permute(1, 0, 2, 3)[:, inside]
    assert error.abs().max() < 0.1
    assert error.mean(dim=1).abs().max() < 5e-3


def test_identity() -> None:
    table = Table.plain(np.array([[0, 0, 24, 24]]), np.array([[24, 24]]))
    assert np.allclose(to_canvas(table, 24), [[[1, 0, 0], [0, 1, 0]]])
    table = Table.plain(np.array([[3, 5, 10, 20]]), np.array([[24, 26]]))
    # The corners of the view are the corners of the box, half a pixel beyond the outermost centres.
    corners = to_canvas(table, 40)[0] @ np.array([[-0.5, -0.5, 1], [39.5, 39.5, 1]]).T
    assert np.allclose(corners.T, [[4.5, 2.5], [24.5, 12.5]])


def view_of(box: tuple[int, int, int, int], size: int, **change: np.ndarray) -> View:
    table = Table.plain(np.array([box], dtype=np.int32), np.array([[100, 100]], dtype=np.int32))
    table = table.change(**change)
    maps = torch.from_numpy(to_canvas(table, size)).float()
    return View(torch.zeros(1, 3, size, size), torch.arange(1), None, maps, (0, 0, 0), (1, 1, 1), "view")


def test_matches_by_hand() -> None:
    whole, left = view_of((0, 0, 80, 80), 16), view_of((0, 0, 80, 40), 32)
    assert matches(whole, whole, 4).tolist() == [list(range(16))]
    # The left half, stretched: the first patches of each row find one, the right ones none. (A patch's centre
    # on the border of two cells belongs to the one on its right.)
    assert matches(whole, left, 2).tolist() == [[1, -1, 3, -1]]
    assert matches(left, whole, 2).tolist() == [[0, 0, 2, 2]]
    assert matches(whole, view_of((0, 80, 20, 20), 8), 2).tolist() == [[-1] * 4]
    mirrored = view_of((0, 0, 80, 80), 24, hflip=np.array([True]))
    assert matches(whole, mirrored, 2).tolist() == [[1, 0, 3, 2]]
    upside_down = view_of((0, 0, 80, 80), 24, vflip=np.array([True]))
    assert matches(whole, upside_down, 2).tolist() == [[2, 3, 0, 1]]
    # Turned counter-clockwise once: what was top right is top left now.
    turned = view_of((0, 0, 80, 80), 24, turns=np.array([1], dtype=np.uint8))
    assert matches(whole, turned, 2).tolist() == [[2, 0, 3, 1]]
    assert matches(whole, whole, (2, 4)).tolist() == [list(range(8))]
    assert matches(whole, mirrored, (1, 3)).tolist() == [[2, 1, 0]]


def test_matches_is_the_plain_loop() -> None:
    n, resolution = 20, 60
    rng = np.random.default_rng(0)
    batch = Batch(
        pixels=torch.zeros(n, resolution, resolution, 3, dtype=torch.uint8),
        size=torch.from_numpy(rng.integers(20, 61, (n, 2)).astype(np.int32)),
        index=torch.arange(n),
        label=torch.zeros(n, dtype=torch.int64),
    )
    small = WILD.model_copy(update={"name": "small", "size": 18, "count": 1})
    a, _, b = ViewEngine(Recipe(views=(WILD, small)), seed=0)(batch, 0)
    rows, columns = 6, 3
    found = matches(a, b, (rows, columns))
    assert found.shape == (n, 18)
    assert found.dtype == torch.int64
    for k in range(n):
        to, back = (np.vstack([v.to_canvas[k].double().numpy(), [0, 0, 1]]) for v in (a, b))
        for patch in range(18):
            row, column = divmod(patch, columns)
            centre = [(column + 0.5) * 24 / columns - 0.5, (row + 0.5) * 24 / rows - 0.5, 1]
            x, y, _ = np.linalg.solve(back, to @ centre)
            cell_x, cell_y = math.floor((x + 0.5) * columns / 18), math.floor((y + 0.5) * rows / 18)
            inside = 0 <= cell_x < columns and 0 <= cell_y < rows
            assert found[k, patch] == (cell_y * columns + cell_x if inside else -1)
    assert 0.3 < (found >= 0).float().mean() < 0.95


def test_matches_of_different_images() -> None:
    a = view_of((0, 0, 80, 80), 16)
    b = View(a.pixels, a.index + 1, None, a.to_canvas, a.mean, a.std, a.name)
    with pytest.raises(ValueError, match="same images"):
        matches(a, b, 2)
