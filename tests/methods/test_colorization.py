from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import KINDS, SIZE, ToyReader, check_it_trains, small_engine, small_method, view_of
from torch import Tensor

import sslpipe
from sslpipe import methods
from sslpipe.core import distributed
from sslpipe.data import Batch
from sslpipe.export import save_encoder
from sslpipe.methods.base.method import Clock, Preparation
from sslpipe.methods.colorization import palette, weights
from sslpipe.networks.lab import lab_to_rgb, lightness, rgb_to_lab
from sslpipe.training.core import optim
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe
from sslpipe.views.view import View

CLOCK = Clock(0, 0, 0.0, torch.Generator())
Q = 313


def build(**changes: Any) -> Any:
    return small_method("colorization", **changes).train()


def rgb_view(rgb: Tensor) -> View:
    mean, std = (rgb.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return view_of((rgb - mean) / std)


def random_view(n: int = 8, dtype: torch.dtype = torch.float64) -> View:
    return rgb_view(torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=dtype))


def grey_view(n: int = 8) -> View:
    return rgb_view(random_view(n).pixels[:, :1].sigmoid().expand(-1, 3, -1, -1).float())


class Pixels:
    """A reader of given images, each in the corner of a canvas of other stuff."""

    def __init__(self, images: list[np.ndarray], resolution: int = 16) -> None:
        self.resolution = resolution
        self.size = torch.tensor([image.shape[:2] for image in images], dtype=torch.int32)
        self.pixels = torch.zeros(len(images), resolution, resolution, 3, dtype=torch.uint8)
        self.pixels[..., 1] = 255  # what pads is bright green, and no image's colour
        for canvas, image in zip(self.pixels, images, strict=True):
            canvas[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
        self.labels, self.keys = torch.zeros(len(images)).long(), [str(i) for i in range(len(images))]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def blocks(self) -> np.ndarray:
        return np.array([0, len(self)])

    def gather(self, index: Any) -> Batch:
        index = torch.as_tensor(index)
        return Batch(pixels=self.pixels[index], size=self.size[index], index=index, label=self.labels[index])


def prepared(method: Any, reader: Any, recipe: Recipe | None = None) -> Any:
    recipe = recipe or methods.recipe("colorization", SIZE)
    method.prepare(Preparation(reader, recipe, torch.device("cpu"), 0, lambda key: Path(key)))
    return method


def plain(colour: tuple[int, int, int], height: int = 8, width: int = 8) -> np.ndarray:
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (height, width, 3)).copy()


# --- colours and targets ---


def test_there_are_313_colours_those_of_the_papers_figure_3() -> None:
    # First and last b of each a in the authors' list.
    rows = {
        **{-90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100)},
        **{-30: (-50, 100), -20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90)},
        **{30: (-90, 90), 40: (-100, 90), 50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70)},
        **{90: (-110, 70), 100: (-90, 0)},
    }
    expected = [(a, b) for a, (first, last) in rows.items() for b in range(first, last + 1, 10)]
    assert palette() == expected
    assert len(expected) == Q


@pytest.mark.parametrize("neighbours", [1, 5, 10])
def test_soft_targets_are_those_of_a_search_through_all_colours(neighbours: int) -> None:
    method = build(neighbours=neighbours)
    rgb = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rgb[:8] = rgb[:8].round()  # the corners of the cube lie at the rim of the gamut
    ab = rgb_to_lab(rgb)[:, 1:]
    classes, shares = method._soft(ab)
    dense = torch.zeros(32, Q, 4, 4, dtype=torch.float64).scatter_add(1, classes, shares)
    colours = np.array(palette(), dtype=float)
    for n, y, x in np.ndindex(32, 4, 4):
        distance = ((colours - ab[n, :, y, x].numpy()) ** 2).sum(axis=1)
        nearest = np.argsort(distance, kind="stable")[:neighbours]
        share = np.exp(-distance[nearest] / (2 * 5.0**2))
        expected = np.zeros(Q)
        expected[nearest] = share / share.sum()
        np.testing.assert_allclose(dense[n, :, y, x], expected, atol=1e-5)
        assert classes[n, 0, y, x] == nearest[0]


def test_targets_are_the_colours_of_every_fourth_pixel() -> None:
    method, view = build(target="regression").eval(), random_view(2, torch.float32)
    changed = view.pixels.clone()
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool)
    mask[::4, ::4] = False
    lab = rgb_to_lab(changed * torch.tensor(view.std).view(3, 1, 1) + torch.tensor(view.mean).view(3, 1, 1))
    lab[:, 1:, mask] = 0  # colour is kept at every fourth pixel only, lightness everywhere
    lab[:, 0] = 50
    lab[:, 1:] *= 0.2
    full = lab.clone()
    full[:, 1:, mask] = 10
    losses = [method.step([rgb_view(lab_to_rgb(x))], CLOCK).loss for x in (lab, full)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-6)


def test_predictions_have_a_quarter_of_the_images_side_or_what_is_set() -> None:
    lightness_ = torch.zeros(2, 1, SIZE, SIZE)
    assert build()._predict(lightness_).shape == (2, Q, 4, 4)
    assert build(resolution=6)._predict(lightness_).shape == (2, Q, 6, 6)
    assert build(target="regression")._predict(lightness_).shape == (2, 2, 4, 4)


# --- rebalancing ---


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0])
def test_weights_are_equation_4_in_plain_loops(uniform: float) -> None:
    colours = torch.tensor([[0, 0], [0, 10], [10, 10], [50, 50]])
    counts = torch.tensor([700, 200, 90, 10])
    smooth = [0.0] * 4
    for r in range(4):
        g = [math.exp(-float(((colours[q] - colours[r]) ** 2).sum()) / (2 * 5.0**2)) for q in range(4)]
        for q in range(4):
            smooth[q] += g[q] / sum(g) * int(counts[r]) / 1000
    w = [1 / ((1 - uniform) * p + uniform / 4) for p in smooth]
    mean = sum(p * value for p, value in zip(smooth, w, strict=True))
    found = weights(counts, colours, 5.0, uniform)
    assert found.tolist() == pytest.approx([value / mean for value in w], rel=1e-12)
    if uniform == 1.0:
        assert found.tolist() == pytest.approx([1.0] * 4)
    else:
        assert sorted(found.tolist()) == found.tolist()  # the rarer, the heavier


def test_the_datas_own_colours_are_counted_and_the_padding_is_not() -> None:
    red, blue, green = (180, 60, 60), (60, 60, 180), (0, 255, 0)
    images = [plain(red, 8, 12), plain(red, 5, 7), plain(red), plain(blue)]
    rarity = prepared(build(), Pixels(images)).rarity

    def weight(colour: tuple[int, int, int]) -> float:
        ab = rgb_to_lab(torch.tensor([colour]) / 255)[0, 1:]
        nearest = min(range(Q), key=lambda q: float(((torch.tensor(palette()[q]) - ab) ** 2).sum()))
        return float(rarity[nearest])

    assert weight(red) < weight(blue) < weight(green)
    assert weight(green) == pytest.approx(float(rarity.max()))  # never seen
    counts = torch.zeros(Q)
    for colour, share in ((red, 3), (blue, 1)):
        ab = rgb_to_lab(torch.tensor([colour]) / 255)[0, 1:]
        counts[min(range(Q), key=lambda q: float(((torch.tensor(palette()[q]) - ab) ** 2).sum()))] += share
    expected = weights(counts, torch.tensor(palette()), 5.0, 0.5)
    torch.testing.assert_close(rarity, expected.float())


def test_rare_colours_weigh_more_in_the_loss() -> None:
    method, view = build().eval(), random_view(2, torch.float32)
    before = method.step([view], CLOCK).loss
    method.rarity.mul_(3)
    torch.testing.assert_close(method.step([view], CLOCK).loss, 3 * before)


def test_without_preparation_all_colours_weigh_the_same() -> None:
    assert (build().rarity == 1).all()


def test_weights_are_saved_and_gathered_alike_each_time(toy_reader: Any) -> None:
    method = prepared(build(), toy_reader)
    again = build()
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.rarity, method.rarity)
    torch.manual_seed(7)
    assert torch.equal(prepared(build(), toy_reader).rarity, method.rarity)
    assert method.rarity.max() > 2 * method.rarity.min()


# --- the loss ---


def test_the_loss_is_equation_2_in_plain_loops(toy_reader: Any) -> None:
    method = prepared(build(), toy_reader).double().eval()
    view = random_view(4)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (view.mean, view.std))
    colours = np.array(palette(), dtype=float)
    total, right = 0.0, 0
    with torch.no_grad():
        for n in range(4):
            rgb = torch.from_numpy(view.pixels[n].numpy() * std + mean).clamp(0, 1)[None]
            lab = rgb_to_lab(rgb)[0]
            seen = (lab[:1] / 50 - 1).expand(3, -1, -1)
            scores = method.decoder(method.backbone.maps(seen[None]))[0].numpy()  # [Q, 4, 4]
            for y, x in np.ndindex(4, 4):
                p = np.exp(scores[:, y, x]) / np.exp(scores[:, y, x]).sum()
                distance = ((colours - lab[1:, 4 * y, 4 * x].numpy()) ** 2).sum(axis=1)
                nearest = np.argsort(distance, kind="stable")[:5]
                z = np.exp(-distance[nearest] / 50)
                z /= z.sum()
                total -= float(method.rarity[nearest[0]]) * float((z * np.log(p[nearest])).sum()) / (4 * 16)
                right += int(p.argmax() == nearest[0])
        step = method.step([view], CLOCK)
    assert step.loss.item() == pytest.approx(total, rel=1e-9)
    assert step.numbers["accuracy"].item() == pytest.approx(right / 64)
    assert step.numbers["coloured"].item() == 1


def test_regression_is_equation_1_in_plain_loops() -> None:
    method, view = build(target="regression").double().eval(), random_view(4)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (view.mean, view.std))
    lab = rgb_to_lab((view.pixels * std + mean).clamp(0, 1))
    with torch.no_grad():
        prediction = method._predict(lab[:, :1])
        total = 0.0
        for n, y, x in np.ndindex(4, 4, 4):
            error = prediction[n, :, y, x] - lab[n, 1:, 4 * y, 4 * x] / 110
            total += 0.5 * float((error**2).sum()) / 64
        assert method.step([view], CLOCK).loss.item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("target", ["classes", "regression"])
def test_it_learns_to_colour(target: str) -> None:
    # Bright images are red and dark ones blue: lightness tells the colour.
    bright, dark = torch.tensor([0.9, 0.6, 0.6]), torch.tensor([0.1, 0.1, 0.4])
    kind = (torch.arange(16) % 2)[:, None, None, None]
    rgb = torch.where(kind == 1, bright.view(3, 1, 1), dark.view(3, 1, 1)) + 0.02 * torch.rand(
        16, 3, SIZE, SIZE
    )
    method, view = build(target=target), rgb_view(rgb)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        method.step([view], CLOCK).loss.backward()
        optimizer.step()
    with torch.no_grad():
        ab = method._annealed_mean(method._predict(lightness(rgb))).mean(dim=(2, 3))
    truth = rgb_to_lab(rgb)[:, 1:].mean(dim=(2, 3))
    assert (ab - truth).abs().mean() < 0.4 * truth.abs().mean()


def test_a_batch_in_two_halves_has_the_mean_of_their_losses() -> None:
    # So several processes, whose gradients are averaged, are one: weights do not divide by their own sum.
    method, view = build().eval(), random_view(8, torch.float32)
    method.rarity.copy_(torch.linspace(0.1, 5, Q))
    halves = [dataclasses.replace(view, pixels=part) for part in view.pixels.chunk(2)]
    losses = [method.step([half], CLOCK).loss for half in halves]
    torch.testing.assert_close(method.step([view], CLOCK).loss, (losses[0] + losses[1]) / 2)
    norms = [m for m in method.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(isinstance(norm, distributed.BatchNorm2d) for norm in norms)


# --- lightness alone ---


def test_the_backbone_is_shown_lightness_as_three_equal_channels() -> None:
    method, view = build(), random_view(4, torch.float32)
    seen: list[Tensor] = []
    method.backbone.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method.step([view], CLOCK)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (view.mean, view.std))
    expected = rgb_to_lab((view.pixels * std + mean).clamp(0, 1))[:, :1] / 50 - 1
    torch.testing.assert_close(seen[0], expected.expand(-1, 3, -1, -1), atol=1e-4, rtol=0)


def test_the_exported_encoder_sees_what_the_backbone_was_trained_on(tmp_path: Path, toy_reader: Any) -> None:
    recipe = methods.recipe("colorization", SIZE)
    (spec,) = recipe.views
    own = Recipe(views=(spec.model_copy(update={"mean": (0.3, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}),))
    method = prepared(build(), toy_reader, own)
    preprocess = {"size": SIZE, "mean": (0.3, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}
    save_encoder(method.eval().encoder, tmp_path, preprocess=preprocess, info={})
    encoder = sslpipe.load_encoder(tmp_path / "encoder.safetensors")
    images = toy_reader.pixels[:4]
    x = encoder.preprocess(images)
    L = lightness(images.permute(0, 3, 1, 2) / 255)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(x), method.backbone((L / 50 - 1).expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
        )
        lab = rgb_to_lab(images.permute(0, 3, 1, 2) / 255)
        lab[:, 1:] *= -0.3  # other colours of the same lightness
        other = lab_to_rgb(lab)
        mean, std = (torch.tensor(preprocess[key]).view(3, 1, 1) for key in ("mean", "std"))
        torch.testing.assert_close(encoder((other - mean) / std), encoder(x), atol=2e-2, rtol=2e-2)


# --- grey images ---


def test_grey_images_do_not_count() -> None:
    method = build().eval()
    coloured, grey = random_view(4, torch.float32), grey_view(4)
    both = dataclasses.replace(coloured, pixels=torch.cat([coloured.pixels, grey.pixels]))
    step = method.step([both], CLOCK)
    torch.testing.assert_close(step.loss, method.step([coloured], CLOCK).loss / 2)
    assert step.numbers["coloured"].item() == 0.5


@pytest.mark.parametrize("target", ["classes", "regression"])
def test_a_batch_of_grey_images_teaches_nothing_and_harms_nothing(target: str) -> None:
    method = build(target=target)
    step = method.step([grey_view()], CLOCK)
    step.loss.backward()
    assert step.loss.item() == 0
    assert all(torch.isfinite(torch.as_tensor(number)) for number in step.numbers.values())
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_grey_data_are_said_to_be_useless(capsys: pytest.CaptureFixture[str], toy_reader: Any) -> None:
    method = prepared(build(), Pixels([plain((90, 90, 90)), plain((20, 20, 20))]))
    assert "all images are grey" in capsys.readouterr().out
    assert (method.rarity == 1).all()
    prepared(build(), Pixels([plain((90, 90, 90))] * 3 + [plain((180, 60, 60))]))
    assert "75% of the images are grey" in capsys.readouterr().out
    prepared(build(), toy_reader)
    assert capsys.readouterr().out == ""


# --- pictures ---


def test_the_annealed_mean_lies_between_mean_and_mode() -> None:
    method = build(temperature=0.38)
    scores = torch.randn(1, Q, 1, 1, generator=torch.Generator().manual_seed(0))
    p = scores.softmax(1)[0, :, 0, 0].double().numpy()
    p = p ** (1 / 0.38) / (p ** (1 / 0.38)).sum()  # equation 5
    expected = (p[:, None] * np.array(palette())).sum(axis=0)
    np.testing.assert_allclose(method._annealed_mean(scores)[0, :, 0, 0], expected, atol=1e-3)
    method.config = method.config.model_copy(update={"temperature": 1e-3})
    mode = palette()[int(scores.argmax())]
    assert method._annealed_mean(scores)[0, :, 0, 0].tolist() == pytest.approx(mode, abs=1e-3)


@pytest.mark.parametrize("target", ["classes", "regression"])
def test_the_sheet_shows_lightness_prediction_and_truth(target: str) -> None:
    views = small_engine("colorization")(ToyReader().gather(range(3)), 0)
    ((title, sheet),) = build(target=target).eval().pictures(views)
    assert title == "colorizations"
    assert sheet.shape == (3 * SIZE, 3 * SIZE, 3)
    seen, predicted, true = sheet.split(SIZE)
    assert int(seen.amax(2).sub(seen.amin(2)).max()) <= 1  # grey
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (views[0].mean, views[0].std))
    image = ((views[0].pixels[0] * std + mean).clamp(0, 1) * 255).round().permute(1, 2, 0)
    assert torch.equal(true[:, :SIZE].float(), image)
    assert predicted.float().std() > 0


# --- settings ---


def test_the_default_rates_are_the_official_ones() -> None:
    config = methods.configure("colorization").optimizer
    lrs = [config.peak(40) * lr_factor(config, step + 0.5, 500) for step in range(500)]
    np.testing.assert_allclose(lrs, [3e-5] * 225 + [3e-6] * 225 + [3e-7] * 50)
    optimizer = optim.build(build().parameter_groups(), config, 40)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_the_views_keep_their_colours() -> None:
    (view,) = methods.recipe("colorization", 224).views
    assert (view.jitter, view.grey, view.solarize) == (None, 0.0, 0.0)


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_resnets_cnns_and_vits(name: str) -> None:
    encoder = copy.deepcopy(check_it_trains("colorization", name).eval().encoder)
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.dim)
