"""Numbers that several methods watch, and when they mean collapse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sslpipe import methods
from sslpipe.measures.geometry import effective_rank, spread
from sslpipe.methods.base.monitor import alike, entropy_share, student_and_teacher


def test_effective_rank_is_garridos_formula() -> None:
    z = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.linspace(0, 3, 12))
    sigma = np.linalg.svd(z.double().numpy(), compute_uv=False)
    entropy = 0.0
    for value in sigma:
        p = value / sigma.sum() + 1e-7
        entropy -= p * math.log(p)
    assert effective_rank(z).item() == pytest.approx(math.exp(entropy), rel=1e-10)


def test_effective_rank_counts_the_dimensions_that_are_filled() -> None:
    basis = torch.eye(16)[:5].repeat(3, 1)  # each of five directions three times
    assert effective_rank(basis).item() == pytest.approx(5, rel=1e-4)
    assert effective_rank(torch.ones(8, 4)).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(8, 4)).item() == pytest.approx(1, abs=1e-4)


def test_entropy_share_is_0_for_one_choice_and_1_for_all_alike() -> None:
    assert entropy_share(torch.full((12,), 3), 6) == 0
    assert entropy_share(torch.arange(12) % 6, 6).item() == pytest.approx(1)
    assert entropy_share(torch.arange(4), 100).item() == pytest.approx(1)  # no more than there are images
    counts = [6, 3, 3]
    expected = -sum(c / 12 * math.log(c / 12) for c in counts) / math.log(6)
    chosen = torch.tensor([0] * 6 + [2] * 3 + [5] * 3)
    assert entropy_share(chosen, 6).item() == pytest.approx(expected)


def test_the_gap_is_0_for_equal_networks_and_2_for_opposite_ones() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    parts = [(z[:2], z[:2]), (z[2:], z[2:])]
    assert student_and_teacher(parts)["teacher_gap"].item() == pytest.approx(0, abs=1e-6)
    opposite = student_and_teacher([(z, -3 * z)])
    assert opposite["teacher_gap"].item() == pytest.approx(2, abs=1e-6)
    torch.testing.assert_close(opposite["projection_std"], spread(z))


def look(epoch: int, **numbers: float) -> dict[str, float]:
    return {"epoch": epoch, "rankme": 50.0, "feature_std": 0.3, **numbers}


RANDOM = look(0, projection_std=0.264, projection_rank=76.2)


# Measured on the bundled digits: docs/guides/watching.md.
@pytest.mark.parametrize(
    "now",
    [
        RANDOM,
        look(1, projection_std=0.305, projection_rank=35.3),  # SwAV
        look(6, projection_std=0.944, projection_rank=5.41),  # SimSiam
        look(6, feature_std=0.0202, rankme=1.66),  # MAE, which has no projections
    ],
)
def test_random_weights_and_healthy_runs_are_not_alike(now: dict[str, float]) -> None:
    assert alike([RANDOM, now]) is None
    assert alike([now]) is None  # without the look at random weights


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            look(3, projection_std=0.0106, projection_rank=1.44),
            "point the same way",
        ),  # SimSiam, no stop-gradient
        (look(4, projection_std=0.0985, projection_rank=5.99), "point the same way"),
        (
            look(6, projection_std=0.628, projection_rank=2.38),
            "in few dimensions",
        ),  # the same by squared errors
        (look(1, feature_std=4e-4, projection_std=0.5, projection_rank=9.0), "all features are equal"),
        (look(1, feature_std=math.nan), "not finite"),
    ],
)
def test_collapse_is_said_in_words(now: dict[str, float], words: str) -> None:
    assert words in (alike([RANDOM, now]) or "")
    assert words in (alike([now]) or "")


def test_what_random_weights_have_is_no_collapse() -> None:
    deep = look(0, feature_std=5e-4, projection_std=0.04, projection_rank=1.9)  # as very deep networks begin
    assert alike([deep]) is None
    assert alike([deep, {**deep, "epoch": 3, "projection_std": 0.03}]) is None
    assert alike([deep, {**deep, "epoch": 3, "projection_std": 0.01}]) is not None


def test_swav_is_collapsed_where_one_prototype_or_every_one_is_chosen_twice_in_a_row() -> None:
    swav: Any = methods.find("swav")

    def looks(*pairs: tuple[float, float]) -> list[dict[str, float]]:
        return [
            look(epoch, prototype_entropy=one, prediction_entropy=every)
            for epoch, (one, every) in enumerate(pairs)
        ]

    def said(*pairs: tuple[float, float]) -> str | None:
        return swav.collapsed(None, looks(*pairs))  # the method itself is not looked at

    assert said((0.014, 0.9)) is None
    assert said((0.014, 0.9), (0.05, 0.9)) is None  # the first one is of random weights
    assert said((0.014, 0.9), (0.05, 0.9), (0.8, 0.6)) is None
    assert "same prototype" in (said((0.014, 0.9), (0.05, 0.9), (0.02, 0.9)) or "")
    assert "log K" in (said((0.014, 0.9), (0.9, 0.9999), (0.9, 0.9999)) or "")
