"""Each operation does what its name says to the view that evaluation sees; the numbers are those of plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from support import ToyReader
from torch import Tensor

from sslpipe.evals.robustness import invariance
from sslpipe.evals.robustness.invariance import STRENGTHS, changed
from sslpipe.views.operations import ADJUSTMENTS
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import Jitter, Recipe, ViewSpec

PREPROCESS = Preprocess(size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
LOW, HIGH = np.full((4, 2), 0.25), np.full((4, 2), 0.75)


def view(operation: str | None, u: np.ndarray = LOW, **preprocess: Any) -> Tensor:
    return changed(
        ToyReader(4).gather(range(4)), PREPROCESS.model_copy(update=preprocess), operation, u, fill=0.0
    )


def test_no_operation_is_the_view_that_evaluation_sees() -> None:
    preprocess = Preprocess(size=16, crop=0.8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2))
    batch = ToyReader(4).gather(range(4))
    assert torch.equal(changed(batch, preprocess, None, LOW, 0.0), preprocess.view(batch))


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("hflip", lambda x: x.flip(-1)),
        ("vflip", lambda x: x.flip(-2)),
        ("grey", lambda x: tv.rgb_to_grayscale(x, 3)),
        ("solarize", lambda x: torch.where(x >= 0.5, 1 - x, x)),
        ("brightness", lambda x: tv.adjust_brightness(x, 0.6)),
        ("contrast", lambda x: tv.adjust_contrast(x, 0.6)),
        ("saturation", lambda x: tv.adjust_saturation(x, 0.6)),
        ("hue", lambda x: tv.adjust_hue(x, -0.1)),
        ("rotation", lambda x: tv.rotate(x, -15, tv.InterpolationMode.BILINEAR, fill=[0.0])),
        ("quarter_turns", lambda x: x.rot90(1, dims=(2, 3))),
        ("blur", lambda x: tv.gaussian_blur(x, [7, 7], [1.0, 1.0])),
    ],
)
def test_an_operation_alone_is_torchvisions(operation: str, expected: Any) -> None:
    torch.testing.assert_close(view(operation), expected(view(None)), atol=2e-5, rtol=0)


def test_what_is_drawn_turns_factors_round() -> None:
    x = view(None)
    torch.testing.assert_close(view("brightness", HIGH), tv.adjust_brightness(x, 1.4), atol=1e-5, rtol=0)
    torch.testing.assert_close(view("quarter_turns", HIGH), x.rot90(3, dims=(2, 3)), atol=1e-5, rtol=0)


def test_a_crop_is_half_of_what_evaluation_sees() -> None:
    batch = ToyReader(4).gather(range(4))
    u = np.array([[0.0, 0.0], [0.999, 0.999], [0.0, 0.999], [0.5, 0.5]])
    found = changed(batch, PREPROCESS.model_copy(update={"size": 11}), "crop", u, 0.0)
    pixels = batch.pixels.permute(0, 3, 1, 2).float() / 255
    for n, (top, left) in enumerate([(0, 0), (5, 5), (0, 5), (3, 3)]):  # 11 of 16 pixels a side
        torch.testing.assert_close(
            found[n], pixels[n, :, top : top + 11, left : left + 11], atol=1e-5, rtol=0
        )
    assert round(math.sqrt(0.5) * 16) == 11


def test_every_operation_of_the_view_language_is_there() -> None:
    assert list(STRENGTHS)[:5] == ["crop", "hflip", "vflip", "rotation", "quarter_turns"]
    assert list(STRENGTHS)[5:12] == [*ADJUSTMENTS, "grey", "blur", "solarize"]
    assert set(ADJUSTMENTS) == set(Jitter.model_fields) - {"probability"}
    base = view(None)
    for operation in STRENGTHS:
        assert not torch.allclose(view(operation), base, atol=1e-3), operation


def test_similarities_are_the_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 9, 5, generator=generator)
    x, y = a.double().numpy(), b.double().numpy()

    def cosine(p: np.ndarray, q: np.ndarray) -> float:
        return float(sum(p * q) / math.sqrt(sum(p * p)) / math.sqrt(sum(q * q)))

    assert invariance.similarity(a, b) == pytest.approx(
        np.mean([cosine(p, q) for p, q in zip(x, y, strict=True)])
    )
    others = [cosine(x[i], x[j]) for i in range(9) for j in range(9) if i != j]
    assert invariance.similarity_of_others(a) == pytest.approx(np.mean(others))


def test_the_scale_runs_from_another_image_to_the_same() -> None:
    assert invariance.relative(1.0, 0.4) == 1.0
    assert invariance.relative(0.4, 0.4) == 0.0
    assert invariance.relative(0.7, 0.4) == pytest.approx(0.5)
    assert invariance.relative(1.0, 1.0) is None


def test_what_the_recipe_has_is_named() -> None:
    plain = ViewSpec(name="plain", size=16, scale=(1.0, 1.0), hflip=0.0)
    assert invariance.in_recipe(Recipe(views=(plain,))) == []
    jitter = Jitter(brightness=0.4, contrast=0, saturation=0, hue=0.1)
    other = ViewSpec(name="other", size=16, scale=(0.2, 1.0), hflip=0.5, jitter=jitter, blur=0.1)
    assert invariance.in_recipe(Recipe(views=(plain, other))) == [
        "crop",
        "hflip",
        "brightness",
        "hue",
        "blur",
    ]
