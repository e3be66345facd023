"""Evaluations under several seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import planted_features
from support import inputs, manifest

from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.base.repeats import APART, merge, repeated
from sslpipe.evals.linear import evaluate as linear


def scored(seed: int) -> Outcome:
    """Metrics that depend on the seed, in every shape they come in."""
    generator = np.random.default_rng(seed)
    draws = [
        {"draw": n, "encoder": value, "random_init": value / 2} for n, value in enumerate(generator.random(3))
    ]
    found = np.array([draw["encoder"] for draw in draws])
    metrics = {
        "top1": float(found.mean()),
        "top1_std": float(found.std()),
        "miou": float(generator.random()),
        "iou": [None, float(generator.random())],
        "labels": 100,
        "draws": draws,
        "few_labels": {"10": {"top1": float(generator.random()), "top1_std": 0.0}},
        "without_duplicates": {"top1": float(generator.random()), "test_images": 7},
    }
    protocol = {"lr_used": {"encoder": seed / 8}, "epochs": 5, "smoothing": 0.1, "draws": 3}
    return Outcome(metrics=metrics, protocol=protocol, details=f"predictions of seed {seed}")


def test_mean_and_spread_are_those_of_all_draws() -> None:
    outcome = repeated(scored, 4, 7)
    metrics = outcome.metrics
    seeds = [7 + APART * n for n in range(4)]
    each = [scored(seed).metrics for seed in seeds]
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
    own = np.array([one["without_duplicates"]["top1"] for one in each])
    assert metrics["without_duplicates"] == {
        "top1": pytest.approx(own.mean()), "top1_std": pytest.approx(own.std()), "test_images": 7,
    }  # fmt: skip
    # What was chosen is listed and not averaged.
    assert outcome.protocol == {
        "lr_used": {"encoder": [seed / 8 for seed in seeds]},
        "epochs": 5, "smoothing": 0.1, "draws": 3, "seeds": 4,
    }  # fmt: skip
    assert outcome.details == "predictions of seed 7"


def test_one_seed_changes_nothing() -> None:
    assert repeated(scored, 1, 3) == scored(3)


def test_what_only_some_seeds_have_is_averaged_over_those() -> None:
    assert merge([{"a": 1.0, "b": 2.0}, {"a": 3.0}])["b"] == 2.0


def test_a_deviation_that_goes_with_no_value_is_a_value() -> None:
    found = merge(
        [
            {"feature_std": 1.0, "top1": 0.5, "top1_std": 0.1},
            {"feature_std": 3.0, "top1": 0.5, "top1_std": 0.1},
        ]
    )
    assert found == {"feature_std": 2.0, "feature_std_std": 1.0, "top1": 0.5, "top1_std": pytest.approx(0.1)}


def test_seeds_of_a_linear_probe_draw_other_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = planted_features(80), planted_features(6)
    given = inputs(features=(train, test), manifest=manifest(("test", 5)))
    settings = linear.Config(epochs=2, min_steps=10, lrs=(0.1,), few_labels=(8,), draws=2, folds=2)
    drawn: list[torch.Tensor] = []
    original = linear.draw

    def watched(labels: torch.Tensor, count: int | None, seed: int) -> torch.Tensor:
        drawn.append(original(labels, count, seed))
        return drawn[-1]

    monkeypatch.setattr(linear, "draw", watched)
    outcome = repeated(lambda seed: linear.evaluate(given, settings, seed), 3, 0)
    assert len(drawn) == 3 * 2 * 3  # seeds, draws, kinds of features
    assert len({tuple(rows.sort().values.tolist()) for rows in drawn}) == 3 * 2
    assert outcome.protocol["seeds"] == 3
    assert set(outcome.metrics["few_labels"]["8"]) >= {"top1", "top1_std", "random_init_top1"}
    assert outcome.metrics["without_duplicates"]["test_images"] == 5
    each = [linear.evaluate(given, settings, APART * n) for n in range(3)]
    for name in ("top1", "raw_pixel_top1"):
        for of in (lambda metrics: metrics, lambda metrics: metrics["without_duplicates"]):
            assert of(outcome.metrics)[name] == pytest.approx(
                np.mean([of(one.metrics)[name] for one in each])
            )
    few = [one.metrics["few_labels"]["8"]["top1"] for one in each]
    assert outcome.metrics["few_labels"]["8"]["top1"] == pytest.approx(np.mean(few))
    assert torch.equal(outcome.details[""], each[0].details[""])
