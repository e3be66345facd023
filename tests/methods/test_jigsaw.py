from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support import ToyReader, check_it_trains, small_engine, small_method, view_of
from torch import Tensor

from sslpipe import methods
from sslpipe.console.errors import UserError
from sslpipe.data.loader import Loader
from sslpipe.methods import jigsaw
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, Preparation
from sslpipe.methods.jigsaw import cut, distant_permutations, normalised
from sslpipe.networks.protocol import ConvBackbone
from sslpipe.training.core import optim
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views import ViewEngine
from sslpipe.views.recipe import IMAGENET_MEAN, IMAGENET_STD, resolve
from sslpipe.views.view import View

SIDE = 18  # of the view for images of 16 pixels: cells of 6, tiles of 5


def clock(step: int = 0) -> Clock:
    return Clock(step, 0, 0.0, torch.Generator().manual_seed(step))


def build(**changes: Any) -> Any:
    return small_method("jigsaw", **changes).train()


def noise(n: int = 16, side: int = SIDE, seed: int = 0) -> View:
    return view_of(torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed)))


def painted(n: int, side: int, grid: int = 3) -> Tensor:
    """Images whose pixels are the number of their cell, in all channels."""
    cell = torch.arange(side) // (side // grid)
    return (grid * cell[:, None] + cell).float().expand(n, 3, side, side)


# --- permutations ---


@pytest.mark.parametrize(
    ("count", "smallest", "mean"), [(9, 9, 9.0), (10, 8, 8.8), (64, 7, 8.12), (100, 6, 8.079)]
)
def test_permutations_differ_in_many_places(count: int, smallest: int, mean: float) -> None:
    chosen = distant_permutations(count, 0)
    assert chosen.shape == (count, 9)
    assert (np.sort(chosen, axis=1) == np.arange(9)).all()
    distances = [(a != b).sum() for a, b in itertools.combinations(chosen, 2)]
    assert min(distances) == smallest
    assert np.mean(distances) >= mean  # the published 100 have 8.08, and a smallest distance of 2


def test_each_permutation_is_the_farthest_that_is_left() -> None:
    every = np.array(list(itertools.permutations(range(9))), dtype=np.int8)
    chosen = distant_permutations(12, 0)
    distances = np.array([(every != one).sum(axis=1) for one in chosen])  # [12, 9!]
    for k in range(1, 12):
        smallest, total = distances[:k].min(axis=0), distances[:k].sum(axis=0)
        own = np.flatnonzero((every == chosen[k]).all(axis=1))[0]
        assert smallest[own] == smallest.max()
        assert total[own] == total[smallest == smallest.max()].max()


def test_four_tiles_have_all_their_permutations() -> None:
    chosen = distant_permutations(24, 0, 4)
    assert sorted(map(tuple, chosen.tolist())) == list(itertools.permutations(range(4)))
    assert [(a != chosen[0]).sum() for a in chosen[:4]] == [0, 4, 4, 4]
    with pytest.raises(ValidationError, match="permutations is 25, but 4 tiles have only 24"):
        build(grid=2, permutations=25)
    method = build(grid=2, permutations=24)
    loss = method.step([noise()], clock()).loss
    assert abs(loss.item() - math.log(24)) < 1.5


def test_permutations_are_fixed_by_their_seed_alone() -> None:
    first = build().permutations
    torch.manual_seed(5)
    assert torch.equal(small_method("jigsaw", seed=5).permutations, first)
    assert not torch.equal(build(permutation_seed=1).permutations, first)
    assert first.tolist()[:2] == [[5, 3, 6, 8, 4, 0, 7, 1, 2], [7, 8, 4, 2, 6, 1, 3, 0, 5]]  # in all versions
    assert torch.equal(build().state_dict()["permutations"], first)


# --- tiles ---


@pytest.mark.parametrize("grid", [2, 3])
def test_tiles_are_cut_as_plain_loops_cut_them(grid: int) -> None:
    generator, tiles = torch.Generator().manual_seed(0), grid**2
    x = torch.randn(4, 3, 30, 30, generator=generator)
    order = torch.stack([torch.randperm(tiles, generator=generator) for _ in range(4)])
    offset = torch.randint(3, (4, tiles, 2), generator=generator)
    shifts = torch.randint(2, (4, tiles, 3, 2), generator=generator)
    result = cut(x, order, offset, shifts, 7)
    for n, k, c in itertools.product(range(4), range(tiles), range(3)):
        row, column = divmod(int(order[n, k]), grid)
        top = 30 // grid * row + int(offset[n, k, 0]) + int(shifts[n, k, c, 0])
        left = 30 // grid * column + int(offset[n, k, 1]) + int(shifts[n, k, c, 1])
        assert torch.equal(result[n, k, c], x[n, c, top : top + 7, left : left + 7])
    assert torch.equal(cut(x.to(memory_format=torch.channels_last), order, offset, shifts, 7), result)


@pytest.mark.parametrize(
    ("grid", "side", "cell", "tile"), [(3, 255, 85, 64), (3, 33, 11, 8), (3, 18, 6, 5), (2, 26, 13, 10)]
)
def test_a_tile_lies_anywhere_within_its_cell_and_the_label_says_which(
    grid: int, side: int, cell: int, tile: int
) -> None:
    method, n = build(grid=grid), 32
    tiles, label = method._puzzle(view_of(painted(n, side, grid)), torch.Generator().manual_seed(0))
    assert tiles.shape == (n, grid**2, 3, tile, tile)
    assert (tiles == tiles[..., :1, :1]).all()  # none reaches into a neighbour's cell
    assert torch.equal(tiles[:, :, 0, 0, 0].long(), method.permutations[label])
    assert set(label.tolist()) == set(range(4))


def test_tiles_are_jittered_each_by_itself_so_that_gaps_differ() -> None:
    method = build()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    x = torch.arange(255.0).expand(16, 3, 255, 255) / 255  # grey: the columns are numbered
    tiles, label = method._puzzle(view_of((x - mean) / std), torch.Generator().manual_seed(0))
    left = ((tiles * std + mean)[:, :, 0, 0, 0] * 255).round().long()
    offset = left - 85 * (method.permutations[label] % 3)
    assert (offset.min(), offset.max()) == (0, 85 - 64 - 2)
    assert all(len(set(row)) > 3 for row in offset.tolist())
    gap = offset.new_tensor([85 + b - a - 64 for row in offset.tolist() for a, b in itertools.pairwise(row)])
    assert gap.float().mean().item() == pytest.approx(21, abs=3)
    assert gap.float().std() > 3


def test_channels_of_coloured_images_are_shifted_and_those_of_grey_ones_are_not() -> None:
    columns = torch.arange(255.0).expand(8, 3, 255, 255) / 255
    coloured = columns.clone()
    coloured[:, 0, 0, 254] = -1.0
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    view = view_of((torch.cat([columns, coloured]) - mean) / std)
    tiles, _ = build()._puzzle(view, torch.Generator().manual_seed(0))
    left = ((tiles * std + mean)[:, :, :, 1, 0] * 255).round()  # [16, 9, 3]
    spread = left.amax(2) - left.amin(2)
    assert spread[:8].max() == 0
    assert set(spread[8:].flatten().tolist()) == {0.0, 1.0, 2.0}


def test_every_tile_is_normalised_by_itself_and_a_flat_one_stays_finite() -> None:
    tiles = 5 * torch.rand(4, 9, 3, 8, 8) + 3
    x = normalised(tiles)
    torch.testing.assert_close(x.mean(dim=(3, 4)), torch.zeros(4, 9, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=(3, 4), correction=0), torch.ones(4, 9, 3), atol=1e-3, rtol=0)
    brighter = tiles * torch.linspace(1, 3, 9)[:, None, None, None] + torch.randn(4, 9, 3, 1, 1)
    torch.testing.assert_close(normalised(brighter), x, atol=1e-3, rtol=0)
    assert not normalised(torch.full((1, 9, 3, 8, 8), 0.7)).any()


@pytest.mark.parametrize(
    ("view", "tile_size", "seen"), [(18, None, 16), (18, 24, 24), (255, None, 64), (255, 32, 32)]
)
def test_tiles_are_shown_as_cut_but_at_16_pixels_at_least(
    view: int, tile_size: int | None, seen: int
) -> None:
    method = build(tile_size=tile_size)
    shapes: list[Any] = []
    method.backbone.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    method.step([noise(2, view)], clock())
    assert shapes == [(18, 3, seen, seen)]  # all tiles in one forward pass


# --- the loss ---


def test_the_loss_is_the_papers_in_plain_loops_tile_by_tile() -> None:
    method, view = build().double().eval(), noise(8)
    view = dataclasses.replace(view, pixels=view.pixels.double())
    tiles, label = method._puzzle(view, torch.Generator().manual_seed(3))
    total, right = 0.0, 0
    with torch.no_grad():
        for n in range(8):
            h = []
            for k in range(9):
                tile = tiles[n, k]
                tile = (tile - tile.mean(dim=(1, 2), keepdim=True)) / (
                    tile.var(dim=(1, 2), keepdim=True, correction=0) + 1e-4
                ) ** 0.5
                large = torch.nn.functional.interpolate(tile[None], size=(16, 16), mode="bilinear")
                h.append(method.fc6(method.backbone(large))[0])
            scores = method.fc78(torch.cat(h)[None])[0].tolist()
            p = [math.exp(score) / sum(math.exp(other) for other in scores) for score in scores]
            total -= math.log(p[int(label[n])]) / 8
            right += max(range(4), key=p.__getitem__) == int(label[n])
        step = method.step([view], Clock(0, 0, 0.0, torch.Generator().manual_seed(3)))
    assert step.loss.item() == pytest.approx(total, rel=1e-9)
    assert step.numbers["accuracy"].item() == pytest.approx(right / 8)


def test_tiles_count_by_their_place_in_the_puzzle() -> None:
    method, tiles = build().eval(), torch.randn(4, 9, 3, 5, 5)
    with torch.no_grad():
        assert not torch.allclose(method._solve(tiles), method._solve(tiles.flip(1)))


def test_another_step_is_another_puzzle_and_the_same_step_the_same() -> None:
    method, view = build(permutations=100), noise()
    drawn = [method._puzzle(view, clock(step).generator) for step in (0, 0, 1)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][1], drawn[2][1])


# --- shortcuts ---


class Gradients(ToyReader):
    """Images that grow steadily in some direction and nothing else: where a tile was, only its brightness tells."""

    def __init__(self) -> None:
        super().__init__(resolution=SIDE)
        generator = torch.Generator().manual_seed(0)
        place = torch.arange(SIDE)
        slope = torch.randint(2, 6, (len(self), 2, 1, 1, 3), generator=generator)
        self.pixels = (slope[:, 0] * place[:, None, None] + slope[:, 1] * place[:, None] + 10).to(torch.uint8)


class Layout(ToyReader):
    """The same picture of noise in all images, and some of their own."""

    def __init__(self) -> None:
        super().__init__(resolution=SIDE)
        generator = torch.Generator().manual_seed(0)
        common = torch.randint(0, 120, (1, SIDE, SIDE, 1), generator=generator)
        own = torch.randint(0, 120, self.pixels.shape, generator=generator)
        self.pixels = (common + own).to(torch.uint8)


def accuracy(reader: Any, steps: int = 120) -> float:
    method = build(permutations=8)
    recipe = resolve(methods.recipe("jigsaw", 16), user={"grey": 0.0})
    config = OptimizerConfig(name="adamw", lr=3e-3, rule="absolute", warmup_epochs=0)
    optimizer = optim.build(method.parameter_groups(), config, 16)
    engine, loader = ViewEngine(recipe, seed=0), Loader(reader, batch_size=16, seed=0)
    found = []
    for step in range(steps):
        epoch, place = divmod(step, loader.steps)
        outcome = method.step(engine(next(iter(loader.epoch(epoch, start=place))), epoch), clock(step))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        found.append(outcome.numbers["accuracy"].item())
    return float(np.mean(found[-30:]))


def test_a_steady_gradient_gives_nothing_away() -> None:
    # All tiles of an image are alike once they are normalised: chance is 1/8, its deviation here 1.5 %.
    assert accuracy(Gradients()) == pytest.approx(1 / 8, abs=0.05)


def test_images_with_a_layout_are_put_together() -> None:
    assert accuracy(Layout()) > 0.4


# --- settings ---


def test_the_default_rates_are_the_official_ones() -> None:
    config = methods.configure("jigsaw").optimizer
    lrs = [config.peak(256) * lr_factor(config, step + 0.5, 350) for step in range(350)]
    np.testing.assert_allclose(lrs, [1e-2] * 100 + [1e-3] * 100 + [1e-4] * 100 + [1e-5] * 50)
    assert (config.name, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)


def test_the_view_is_a_puzzle_of_whole_cells() -> None:
    (view,) = methods.recipe("jigsaw", 224).views
    assert (view.size, view.scale, view.hflip, view.grey) == (255, (1.0, 1.0), 0.0, 0.3)
    assert methods.recipe("jigsaw", 28).views[0].size % 3 == 0


def test_enlarged_views_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    def prepare(resolution: int, **changes: Any) -> str:
        recipe = resolve(methods.recipe("jigsaw", 16), user=changes)
        reader = ToyReader(resolution=resolution)
        build().prepare(Preparation(reader, recipe, torch.device("cpu"), 0, lambda key: Path(key)))
        return capsys.readouterr().out

    assert prepare(SIDE) == ""
    assert "crops of 16 pixels are enlarged to puzzles of 18" in prepare(16)
    assert "crops of 14 pixels" in prepare(20, scale=(0.5, 1.0))


def test_views_too_small_for_gaps_are_refused() -> None:
    with pytest.raises(UserError, match=r"views\.size to 12"):
        build().step([noise(4, 9)], clock())


class Picky(ConvBackbone):
    """Takes images of 32 pixels and more."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.image_size, self.dim, self.kind, self.options = "picky", 64, 3, "cnn", {}
        self.weight = torch.nn.Parameter(torch.ones(()))  # every network has some

    def maps(self, x: Tensor) -> Tensor:
        if x.shape[2] < 32:
            raise RuntimeError("too small")
        return self.weight * x[:, :, ::8, ::8]


def test_a_backbone_that_cannot_take_tiles_is_refused() -> None:
    with pytest.raises(UserError, match=r"picky tiles of 16 pixels.*tile_size"):
        methods.build("jigsaw", Picky(), {"permutations": 4})
    methods.build("jigsaw", Picky(), {"permutations": 4, "tile_size": 32, "tile_features": 4, "hidden": 4})


@pytest.mark.parametrize("name", ["small_resnet", "timm:test_efficientnet"])
def test_it_trains_resnets_and_cnns(name: str) -> None:
    check_it_trains("jigsaw", name)


# --- pictures ---


def test_the_sheet_shows_the_puzzle_and_its_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    method, n = build().eval(), 3
    _, label = method._puzzle(noise(n), torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(label, 4).float()
    monkeypatch.setattr(jigsaw.Jigsaw, "_solve", lambda self, tiles: one_hot)  # all solved
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    ((title, sheet),) = method.pictures([view_of((painted(n, SIDE) / 8 - mean) / std)])
    assert title == "puzzles"
    assert sheet.shape == (3 * SIDE, n * SIDE, 3)
    rows = sheet[..., 0].reshape(3, SIDE, n, SIDE).permute(0, 2, 1, 3)  # [3, n, S, S]
    numbers = (rows.float() / 255 * 8).round().long()
    assert torch.equal(numbers[0], painted(n, SIDE)[:, 0].long())
    middle = [2, 8, 14]
    shown, solved = (numbers[row][:, middle][:, :, middle].flatten(1) for row in (1, 2))
    assert torch.equal(shown, method.permutations[label])
    assert solved.tolist() == [list(range(9))] * n


def test_pictures_of_the_toy_set_are_the_same_each_time() -> None:
    views = small_engine("jigsaw")(ToyReader().gather(range(4)), 0)
    sheets = [next(iter(build().eval().pictures(views)))[1] for _ in range(2)]
    assert torch.equal(sheets[0], sheets[1])


# --- several processes ---


def test_each_process_draws_for_all_and_takes_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # With draws of its own a process would solve the puzzles of another; test_two_processes.py trains two.
    method, view = build(permutations=100), noise(16, 255)
    tiles, label = method._puzzle(view, clock().generator)
    monkeypatch.setattr(jigsaw, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(jigsaw, "rank", lambda rank=rank: rank)
        part = slice(8 * rank, 8 * rank + 8)
        found = method._puzzle(view[part], clock().generator)
        assert torch.equal(found[0], tiles[part])
        assert torch.equal(found[1], label[part])
