from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from support import KINDS, SIZE, ToyReader, check_it_trains, small_engine, small_method
from torch import Tensor

from sslpipe import methods
from sslpipe.console.errors import UserError
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, Preparation
from sslpipe.methods.rotation import _turned
from sslpipe.training.core import optim
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views import ViewEngine
from sslpipe.views.recipe import Recipe, resolve
from sslpipe.views.view import View

CLOCK = Clock(0, 0, 0.0, torch.Generator())
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


def build(**changes: Any) -> Any:
    return small_method("rotation", **changes).train()


def recipe(**changes: Any) -> Recipe:
    return resolve(methods.recipe("rotation", SIZE), user=changes)


def views(reader: Any, n: int = 16, **changes: Any) -> list[View]:
    return ViewEngine(recipe(**changes), seed=0)(reader.gather(range(n)), 0)


def turned_by_loops(image: np.ndarray, y: int) -> np.ndarray:
    """[3, S, S] by y quarter turns counter-clockwise: what was on the right comes to the top."""
    side = image.shape[1]
    for _ in range(y):
        new = np.empty_like(image)
        for row in range(side):
            for column in range(side):
                new[:, row, column] = image[:, column, side - 1 - row]
        image = new
    return image


# --- which images are turned how ---


def test_a_mirrored_crop_is_turned_in_all_four_ways_after_it_was_mirrored(toy_reader: Any) -> None:
    # Turned first and mirrored then, 90° and 270° would change places.
    method, (view,) = build(), views(toy_reader, hflip=1.0, **WHOLE)
    seen: list[Tensor] = []
    method.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    method.step([view], CLOCK)
    (x,) = seen  # in one forward pass: batch norm sees all four together
    assert x.shape == (4 * 16, 3, SIZE, SIZE)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (view.mean, view.std))
    for y in range(4):
        for n in range(16):
            original = toy_reader.pixels[n].numpy().transpose(2, 0, 1) / 255
            expected = (turned_by_loops(original[:, :, ::-1], y) - mean) / std
            np.testing.assert_allclose(x[16 * y + n], expected, atol=1e-5)


def test_turning_keeps_every_pixel_and_says_by_how_much() -> None:
    x = torch.randn(5, 3, 8, 8)
    turned, y = _turned(x)
    assert y.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    for k in range(4):  # no pixel is interpolated and no border comes in
        assert torch.equal(turned[5 * k : 5 * k + 5].flatten(2).sort().values, x.flatten(2).sort().values)


def test_turns_are_torchvisions() -> None:
    rotate = pytest.importorskip("torchvision.transforms.v2.functional").rotate
    x = torch.randn(2, 3, 9, 9)
    turned, _ = _turned(x)
    for k in range(4):
        assert torch.equal(turned[2 * k : 2 * k + 2], rotate(x, 90.0 * k))


def test_the_papers_views_are_upright_squares_without_borders() -> None:
    (view,) = methods.recipe("rotation", 224).views
    assert (view.rotation, view.quarter_turns, view.vflip, view.hflip) == (0.0, False, 0.0, 0.5)


# --- the loss ---


def test_the_loss_is_equation_3_in_plain_loops(toy_reader: Any) -> None:
    method = build().double().eval()
    (view,) = views(toy_reader)
    x = view.pixels.double()
    total, right = 0.0, 0
    with torch.no_grad():
        for n in range(16):
            for y in range(4):
                turned = torch.from_numpy(turned_by_loops(x[n].numpy(), y).copy())
                scores = method.classifier(method.backbone(turned[None]))[0].tolist()
                p = [math.exp(score) / sum(math.exp(other) for other in scores) for score in scores]
                total -= math.log(p[y]) / 4 / 16
                right += max(range(4), key=p.__getitem__) == y
        step = method.step([dataclasses.replace(view, pixels=x)], CLOCK)
    assert step.loss.item() == pytest.approx(total, rel=1e-6)
    assert step.numbers["accuracy"].item() == pytest.approx(right / 64)


def test_a_batch_in_two_halves_has_the_mean_of_their_losses(toy_reader: Any) -> None:
    # So several processes, whose gradients are averaged, are one; batch norms are the synchronised ones.
    method, (view,) = build().eval(), views(toy_reader)
    losses = [method.step([view[half]], CLOCK).loss for half in (slice(8), slice(8, 16))]
    torch.testing.assert_close(method.step([view], CLOCK).loss, (losses[0] + losses[1]) / 2)


# --- shortcuts ---


class Symmetric(ToyReader):
    """The toy images, made such that a quarter turn leaves them as they are."""

    def __init__(self) -> None:
        super().__init__()
        x = self.pixels.float()
        self.pixels = sum(torch.rot90(x, k, dims=(1, 2)) for k in range(4)).div(4).to(torch.uint8)


def accuracies(reader: Any, steps: int, **changes: Any) -> list[float]:
    method, engine = build(), ViewEngine(recipe(**changes), seed=0)
    config = OptimizerConfig(name="adamw", lr=3e-3, rule="absolute", warmup_epochs=0)
    optimizer, loader = (
        optim.build(method.parameter_groups(), config, 16),
        Loader(reader, batch_size=16, seed=0),
    )
    found = []
    for epoch in range(steps // loader.steps):
        for batch in loader.epoch(epoch):
            outcome = method.step(engine(batch, epoch), CLOCK)
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
            found.append(outcome.numbers["accuracy"].item())
    return found[-10:]


def test_images_that_a_turn_does_not_change_stay_at_chance() -> None:
    # Anything that turning left in the pixels, a border or an interpolation, would be found and told.
    assert np.mean(accuracies(Symmetric(), 60, **WHOLE)) == pytest.approx(0.25, abs=0.02)


def test_ordinary_images_are_learned(toy_reader: Any) -> None:
    assert np.mean(accuracies(toy_reader, 60, **WHOLE)) > 0.5


# --- settings ---


@pytest.mark.parametrize("changes", [{"quarter_turns": True}, {"vflip": 0.5}, {"rotation": 90.0}])
def test_views_that_are_turned_already_are_refused(changes: Any, toy_reader: Any) -> None:
    prepare = build().prepare
    for given in ({}, {"rotation": 15.0}):  # digits come with ±15°
        prepare(Preparation(toy_reader, recipe(**given), torch.device("cpu"), 0, lambda key: None))
    with pytest.raises(UserError, match="upright"):
        prepare(Preparation(toy_reader, recipe(**changes), torch.device("cpu"), 0, lambda key: None))


def test_the_default_rates_are_the_official_ones() -> None:
    config = methods.configure("rotation").optimizer
    lrs = [config.peak(192) * lr_factor(config, epoch + 0.5, 50) for epoch in range(50)]
    np.testing.assert_allclose(lrs, [1e-2] * 15 + [1e-3] * 15 + [1e-4] * 15 + [1e-5] * 5)
    assert (config.name, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_resnets_cnns_and_vits(name: str) -> None:
    check_it_trains("rotation", name)


# --- pictures ---


def test_the_sheet_marks_true_and_predicted_tops() -> None:
    method = build().eval()
    with torch.no_grad():
        method.classifier.weight.zero_()
        method.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))  # always 90°
    reader = ToyReader()
    ((title, sheet),) = method.pictures(small_engine("rotation")(reader.gather(range(3)), 0))
    assert title == "rotations"
    edge, side = 1, SIZE + 2
    assert sheet.shape == (4 * side, 3 * side, 3)
    middle = side // 2
    bars = {0: (0, middle), 1: (middle, 0), 2: (side - edge, middle), 3: (middle, side - edge)}
    for y in range(4):
        cell = sheet[y * side : (y + 1) * side, :side]
        top, guess = cell[bars[y]].tolist(), cell[bars[1]].tolist()
        if y == 1:
            assert top[1] > 150 > top[0]  # green
        else:
            assert top == [255, 255, 255]
            assert guess[0] > 200 > guess[1]  # red
    (view,) = small_engine("rotation")(reader.gather(range(3)), 0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (view.mean, view.std))
    first = ((view.pixels[0] * std + mean).clamp(0, 1) * 255).round().permute(1, 2, 0)
    assert torch.equal(sheet[1 : 1 + SIZE, 1 : 1 + SIZE].float(), first)
    assert torch.equal(sheet[side + 1 : side + 1 + SIZE, 1 : 1 + SIZE].float(), torch.rot90(first))
