from __future__ import annotations

import pytest
import torch

from sslpipe.evals.base.features import Features
from sslpipe.evals.linear import evaluate as linear
from sslpipe.evals.linear.evaluate import Config, evaluate
from sslpipe.measures.probe import fit
from sslpipe.measures.subsets import folds

QUICK = Config(epochs=20, min_steps=100, folds=3, draws=2, few_labels=(40, 20), batch_size=64)


def data(count: int, seed: int, spread: float = 1.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % 4
    return centres[labels] + spread * torch.randn(count, 12, generator=generator), labels


def train(
    x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor, left_out: list[int], classes: int, settings: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    as_it_is = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    data = linear._Standardised(x, *as_it_is, y, torch.device("cpu"))
    return linear._train(data, fold, left_out, classes, settings, seed=0)


def test_it_is_as_good_as_scikit_learns_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    (x, y), (q, t) = data(800, 0), data(400, 1)
    theirs = LogisticRegression(max_iter=1000).fit(x.numpy(), y.numpy()).score(q.numpy(), t.numpy())
    probe = fit(x, y, 4, QUICK, seed=0)
    ours = (probe(q).argmax(1) == t).double().mean().item()
    assert ours == pytest.approx(theirs, abs=0.02)
    assert 0.4 < theirs < 0.99


def test_each_head_follows_torchs_sgd_step_for_step() -> None:
    x, y = data(60, 0)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    settings = Config(epochs=5, min_steps=1, batch_size=60, rates=(0.1, 0.3), weight_decays=(0.0, 0.2))
    weight, bias = train(x, y, torch.zeros(60).long(), [-1], 4, settings)
    for head, (rate, decay) in enumerate(settings.heads()):
        layer = torch.nn.Linear(12, 4)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias]}]
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x), y).backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(weight[0, head], layer.weight.detach().T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bias[0, head], layer.bias.detach(), rtol=1e-4, atol=1e-5)


def test_features_that_stay_where_they_are_give_the_same_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(200, 0)
    kept = fit(x, y, 4, QUICK, seed=0)
    monkeypatch.setattr(linear, "KEPT", 0)
    monkeypatch.setattr(linear, "CHUNK", 170)
    again = fit(x, y, 4, QUICK, seed=0)
    assert torch.equal(kept.weight, again.weight)
    assert kept.rate == again.rate


def test_a_weight_decay_that_forgets_everything_is_not_taken() -> None:
    x, y = data(200, 0)
    settings = QUICK.model_copy(update={"rates": (0.1,), "weight_decays": (9.0, 0.001)})
    assert fit(x, y, 4, settings, seed=0).weight_decay == 0.001


def test_a_fold_that_is_left_out_is_not_learnt_from() -> None:
    # Fold 1's samples carry labels that contradict fold 0's: a head that leaves fold 1 out must not follow them.
    x = torch.cat([torch.ones(10, 1), -torch.ones(10, 1)]).repeat(2, 1)
    y = torch.cat([torch.zeros(10), torch.ones(10), torch.ones(10), torch.zeros(10)]).long()
    fold = torch.cat([torch.zeros(20), torch.ones(20)]).long()
    settings = Config(epochs=50, min_steps=1, batch_size=40, rates=(0.1,))
    weight, bias = train(x, y, fold, [1, 0], 2, settings)
    for row, kept in enumerate((0, 1)):
        logits = x[fold == kept] @ weight[row, 0] + bias[row, 0]
        assert (logits.argmax(1) == y[fold == kept]).all()


def test_the_rate_is_chosen_without_test_data_and_a_hopeless_one_is_not_taken() -> None:
    x, y = data(200, 0)
    assert fit(x, y, 4, QUICK.model_copy(update={"rates": (1e-9, 0.1)}), seed=0).rate == 0.1


def features(count: int, seed: int) -> Features:
    x, y = data(count, seed)
    noise = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed + 50))
    return Features(x, noise, x[:, :3], y, torch.arange(count))


def test_evaluate_reports_all_kinds_and_few_labels_with_spread() -> None:
    metrics, predicted = evaluate(features(300, 0), features(200, 1), QUICK, seed=0)
    for prefix, found in predicted.items():
        share = (found == features(200, 1).label).double().mean().item()
        assert metrics[f"{prefix}top1"] == share
    assert metrics["top1"] > metrics["raw_pixel_top1"] > metrics["random_init_top1"]
    assert set(metrics["few_labels"]) == {"40", "20"}
    assert (
        metrics["top1"]
        > metrics["few_labels"]["20"]["top1"]
        > metrics["few_labels"]["20"]["random_init_top1"]
    )
    assert metrics["few_labels"]["20"]["top1_std"] >= 0
    again, _ = evaluate(features(300, 0), features(200, 1), QUICK, seed=0)
    assert metrics == again


def test_test_labels_do_not_change_what_is_chosen() -> None:
    train, test = features(200, 0), features(100, 1)
    other = Features(
        test.features, test.random_init_features, test.raw_pixel_features, test.label.flip(0), test.index
    )
    first, second = (evaluate(train, t, QUICK, seed=0)[0]["protocol"]["rate_used"] for t in (test, other))
    assert first == second


def test_counts_beyond_the_set_or_below_the_classes_are_left_out() -> None:
    settings = QUICK.model_copy(update={"few_labels": (1000, 50, 3), "draws": 1})
    assert set(evaluate(features(100, 0), features(50, 1), settings, seed=0)[0]["few_labels"]) == {"50"}


def test_few_labels_may_be_a_share_or_a_number_a_class() -> None:
    settings = QUICK.model_copy(update={"few_labels": ("20%", "5 per class", 30), "draws": 1})
    metrics, _ = evaluate(features(100, 0), features(50, 1), settings, seed=0)
    assert set(metrics["few_labels"]) == {"20", "30"}  # 20 % of 100 are 5 for each of 4 classes


def test_logistic_regression_chooses_its_penalty_as_scikit_learn_does() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit

    train, test = features(300, 0), features(200, 1)
    found = linear.logistic(train, test, QUICK, seed=0)
    x = (train.features - train.features.mean(0)) / train.features.std(0, correction=0)
    q = (test.features - train.features.mean(0)) / train.features.std(0, correction=0)
    split = PredefinedSplit(folds(train.label, QUICK.folds, 0).numpy())
    grid = {"C": list(linear.STRENGTHS)}
    theirs = GridSearchCV(LogisticRegression(max_iter=1000), grid, cv=split).fit(
        x.numpy(), train.label.numpy()
    )
    assert found["c"] == pytest.approx(theirs.best_params_["C"])
    assert found["top1"] == pytest.approx(theirs.score(q.numpy(), test.label.numpy()))
    assert found["top1"] > found["raw_pixel_top1"]
    assert found["converged"] is True


def test_logistic_regression_that_was_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_ITERATIONS", 2)
    found = linear.logistic(features(300, 0), features(200, 1), QUICK, seed=0)
    assert found["converged"] is False
