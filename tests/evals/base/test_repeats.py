"""Evaluations under several seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sslpipe.evals.base.features import Features
from sslpipe.evals.base.repeats import APART, Config, merge, repeated
from sslpipe.evals.linear import evaluate as linear


def scored(seed: int) -> tuple[dict[str, Any], str]:
    """Metrics that depend on the seed, in every shape they come in."""
    generator = np.random.default_rng(seed)
    draws = [
        {"draw": n, "encoder": value, "random_init": value / 2} for n, value in enumerate(generator.random(3))
    ]
    found = np.array([draw["encoder"] for draw in draws])
    return {
        "top1": float(found.mean()),
        "top1_std": float(found.std()),
        "miou": float(generator.random()),
        "iou": [None, float(generator.random())],
        "labels": 100,
        "draws": draws,
        "few_labels": {"10": {"top1": float(generator.random()), "top1_std": 0.0}},
        "protocol": {"rate_used": {"encoder": seed}, "epochs": 5, "draws": 3},
    }, f"predictions of seed {seed}"


def test_mean_and_spread_are_those_of_all_draws() -> None:
    metrics, rest = repeated(scored, Config(seeds=4), 7)
    seeds = [7 + APART * n for n in range(4)]
    each = [scored(seed)[0] for seed in seeds]
    draws = np.array([draw["encoder"] for one in each for draw in one["draws"]])
    assert metrics["top1"] == pytest.approx(draws.mean())
    assert metrics["top1_std"] == pytest.approx(draws.std())
    assert [draw["draw"] for draw in metrics["draws"]] == list(range(12))
    assert [draw["encoder"] for draw in metrics["draws"]] == list(draws)
    mious = np.array([one["miou"] for one in each])
    assert (metrics["miou"], metrics["miou_std"]) == pytest.approx((mious.mean(), mious.std()))
    few = np.array([one["few_labels"]["10"]["top1"] for one in each])
    assert metrics["few_labels"]["10"]["top1_std"] == pytest.approx(few.std())
    assert metrics["iou"] == [None, pytest.approx(np.mean([one["iou"][1] for one in each]))]
    assert metrics["labels"] == 100
    assert metrics["protocol"] == {"rate_used": {"encoder": seeds}, "epochs": 5, "draws": 3, "seeds": 4}
    assert rest == "predictions of seed 7"


def test_one_seed_changes_nothing() -> None:
    assert repeated(scored, Config(), 3) == scored(3)


def test_what_only_some_seeds_have_is_averaged_over_those() -> None:
    assert merge([{"a": 1.0, "b": 2.0}, {"a": 3.0}])["b"] == 2.0


def test_seeds_of_a_linear_probe_draw_other_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(90) % 3
    features = torch.randn(90, 8, generator=generator) + label[:, None] * torch.linspace(-1, 1, 8)
    split = Features(features, features.flip(0), features, label, torch.arange(90))
    settings = linear.Config(epochs=2, min_steps=10, rates=(0.1,), few_labels=(9,), draws=2, folds=2)

    def evaluate(seed: int) -> tuple[dict[str, Any], Any]:
        return linear.evaluate(split, split, settings, seed)

    metrics, predicted = repeated(evaluate, Config(seeds=3), 0)
    each = [evaluate(APART * n)[0]["few_labels"]["9"]["top1"] for n in range(3)]
    assert len(set(each)) > 1
    assert metrics["few_labels"]["9"]["top1"] == pytest.approx(np.mean(each))
    assert torch.equal(predicted[""], evaluate(0)[1][""])
