from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planted import planted_features
from support import inputs, manifest

from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.linear import evaluate as linear
from sslpipe.evals.linear.evaluate import Config, evaluate, plots
from sslpipe.measures.probe import fit
from sslpipe.measures.subsets import draw, folds

QUICK = Config(epochs=20, min_steps=100, folds=3, draws=2, few_labels=(40, 20), batch_size=64)


def data(count: int, seed: int, spread: float = 1.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % 4
    return centres[labels] + spread * torch.randn(count, 12, generator=generator), labels


def features(count: int, seed: int) -> Features:
    x, y = data(count, seed)
    noise = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed + 50))
    return Features(x, noise, x[:, :3], y, torch.arange(count))


def found(train: Features, test: Features, config: Config) -> Outcome:
    return evaluate(inputs(features=(train, test), manifest=manifest()), config, seed=0)


def test_what_features_tell_is_found_in_full_with_all_labels_and_with_few() -> None:
    train, test = planted_features(80), planted_features(32)
    outcome = found(train, test, QUICK)
    # Pairs of classes have the same raw pixels: all of a pair's images are told the same one of the two.
    chance = {"top1": 1.0, "raw_pixel_top1": 0.5, "random_init_top1": 0.25}
    few = {**chance, "top1_std": 0.0, "raw_pixel_top1_std": 0.0, "random_init_top1_std": 0.0}
    assert outcome.metrics == {**chance, "few_labels": {"40": few, "20": few}}
    assert torch.equal(outcome.details[""], test.label)
    lines = plots(inputs(features=(train, test), manifest=manifest()), QUICK, outcome)
    assert lines["label_efficiency.csv"].splitlines() == [
        "labels,series,top1,std",
        *(
            f"{count},{series},{top1},0.0000"
            for series, top1 in (("encoder", "1.0000"), ("random_init", "0.2500"), ("raw_pixel", "0.5000"))
            for count in (20, 40, 80)
        ),
    ]
    assert lines["confusion.csv"].splitlines()[:3] == ["actual,predicted", "0,0", "1,1"]


def test_numbers_are_those_of_probes_fitted_one_by_one() -> None:
    train, test = features(300, 0), features(200, 1)
    outcome = found(train, test, QUICK)
    assert set(outcome.metrics["few_labels"]) == {"40", "20"}
    for prefix, kind in KINDS:
        x, q = getattr(train, kind), getattr(test, kind)
        classes = fit(x, train.label, 4, QUICK, 0)(q).argmax(1)
        assert torch.equal(outcome.details[prefix], classes)
        assert outcome.metrics[f"{prefix}top1"] == (classes == test.label).double().mean().item()
        few = []
        for number in range(2):
            rows = draw(train.label, 20, seed=1000 * 20 + number)
            told = fit(x[rows], train.label[rows], 4, QUICK, 0)(q).argmax(1)
            few.append((told == test.label).double().mean().item())
        summary = outcome.metrics["few_labels"]["20"]
        assert summary[f"{prefix}top1"] == pytest.approx(sum(few) / 2)
        assert summary[f"{prefix}top1_std"] == pytest.approx(abs(few[0] - few[1]) / 2)
    again = found(train, test, QUICK)
    assert (outcome.metrics, outcome.protocol) == (again.metrics, again.protocol)


def test_test_labels_do_not_change_what_is_chosen() -> None:
    train, test = features(200, 0), features(100, 1)
    other = replace(test, label=test.label.flip(0))
    first, second = (found(train, each, QUICK).protocol["lr_used"] for each in (test, other))
    assert first == second


def test_counts_beyond_the_set_or_below_the_classes_are_left_out() -> None:
    settings = QUICK.model_copy(update={"few_labels": (1000, 50, 3), "draws": 1})
    assert set(found(features(100, 0), features(50, 1), settings).metrics["few_labels"]) == {"50"}


def test_few_labels_may_be_a_share_or_a_number_a_class() -> None:
    settings = QUICK.model_copy(update={"few_labels": ("20%", "5 per class", 30), "draws": 1})
    metrics = found(features(100, 0), features(50, 1), settings).metrics
    assert set(metrics["few_labels"]) == {"20", "30"}  # 20 % of 100 are 5 for each of 4 classes


def test_test_images_that_repeat_one_of_train_are_left_out_beside() -> None:
    train, test = planted_features(40), planted_features(6)
    test = replace(test, label=torch.tensor([0, 1, 2, 3, 3, 3]))  # the last two look like classes 0 and 1
    given = inputs(features=(train, test), manifest=manifest(("test", 4), ("test", 0)))
    metrics = evaluate(given, QUICK.model_copy(update={"few_labels": ()}), seed=0).metrics
    assert metrics["top1"] == 4 / 6
    assert metrics["without_duplicates"]["top1"] == 3 / 4
    assert metrics["without_duplicates"]["test_images"] == 4


def test_logistic_regression_chooses_its_penalty_as_scikit_learn_does() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit

    train, test = features(300, 0), features(200, 1)
    ours = linear.logistic(train, test, QUICK, seed=0)
    x = (train.features - train.features.mean(0)) / train.features.std(0, correction=0)
    q = (test.features - train.features.mean(0)) / train.features.std(0, correction=0)
    split = PredefinedSplit(folds(train.label, QUICK.folds, 0).numpy())
    grid = {"C": list(linear.STRENGTHS)}
    theirs = GridSearchCV(LogisticRegression(max_iter=1000), grid, cv=split).fit(
        x.numpy(), train.label.numpy()
    )
    assert ours["c"] == pytest.approx(theirs.best_params_["C"])
    assert ours["top1"] == pytest.approx(theirs.score(q.numpy(), test.label.numpy()))
    assert ours["converged"] is True


def test_logistic_regression_finds_what_features_tell() -> None:
    ours = linear.logistic(planted_features(80), planted_features(32), QUICK, seed=0)
    assert (ours["top1"], ours["raw_pixel_top1"], ours["random_init_top1"]) == (1.0, 0.5, 0.25)


def test_logistic_regression_that_was_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_ITERATIONS", 2)
    cut = linear.logistic(features(300, 0), features(200, 1), QUICK, seed=0)
    assert cut["converged"] is False
