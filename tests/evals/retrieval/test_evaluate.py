from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from planted import planted_features
from support import inputs

from sslpipe.console.errors import UserError
from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.retrieval import evaluate as retrieval
from sslpipe.evals.retrieval.evaluate import Config, evaluate, plots, scores


def some(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    return centres[labels] + 1.5 * torch.randn(count, 8, generator=generator), labels


def in_loops(bank: torch.Tensor, known: torch.Tensor, query: torch.Tensor, label: int, k: int) -> list[float]:
    """Recall@k, average precision and R-precision of one query."""
    similarity = [float(query @ x / (query.norm() * x.norm())) for x in bank.double()]
    ranked = [int(known[n]) == label for n in sorted(range(len(bank)), key=lambda n: -similarity[n])]
    places = [n + 1 for n, relevant in enumerate(ranked) if relevant]
    precisions = [(number + 1) / place for number, place in enumerate(places)]
    return [
        float(any(ranked[:k])),
        sum(precisions) / len(precisions),
        sum(ranked[: len(places)]) / len(places),
    ]


def test_scores_are_the_formulas_in_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (q, t) = some(50, 0), some(9, 1)
    monkeypatch.setattr(retrieval, "CHUNK", 150)  # three queries at a time
    found = scores(x, y, q, t, (3,))
    for m in range(9):
        expected = in_loops(x, y, q[m].double(), int(t[m]), 3)
        for name, value in zip(("recall_3", "average_precision", "r_precision"), expected, strict=True):
            assert float(found[name][m]) == pytest.approx(value)
    assert 0.3 < float(found["average_precision"].mean()) < 0.99


def test_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    (x, y), (q, t) = some(200, 0), some(20, 1)
    found = scores(x, y, q, t, (1,))["average_precision"]
    similarity = torch.cosine_similarity(q[:, None], x[None], dim=2)
    for m in range(20):
        theirs = average_precision_score((y == t[m]).numpy(), similarity[m].numpy())
        assert float(found[m]) == pytest.approx(theirs)


def features(count: int, seed: int) -> Features:
    x, y = some(count, seed)
    noise = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed + 50))
    return Features(x, noise, x[:, :3], y, torch.arange(count))


def found(train: Features, test: Features, config: Config) -> Outcome:
    return evaluate(inputs(features=(train, test)), config, seed=0)


def test_each_kind_of_features_has_its_scores_and_the_worst_are_shown() -> None:
    train, test = features(200, 0), features(60, 1)
    test = replace(test, index=test.index + 40)
    outcome = found(train, test, Config(ks=(1, 5), shown=3))
    metrics, worst = outcome.metrics, outcome.details
    for prefix, kind in KINDS:
        own = scores(getattr(train, kind), train.label, getattr(test, kind), test.label, (1, 5))
        assert metrics[f"{prefix}top1"] == metrics[f"{prefix}recall_1"] == own["recall_1"].mean().item()
        assert metrics[f"{prefix}recall_5"] == own["recall_5"].mean().item()
        assert metrics[f"{prefix}map"] == own["average_precision"].mean().item()
        assert metrics[f"{prefix}r_precision"] == own["r_precision"].mean().item()
    assert outcome.protocol["queries"] == 60
    own = scores(train.features, train.label, test.features, test.label, (1,))["average_precision"]
    assert [row["query"] - 40 for row in worst] == own.argsort(stable=True)[:3].tolist()
    assert worst[0]["average_precision"] == pytest.approx(float(own.min()), abs=1e-4)
    assert json.loads(plots(inputs(), Config(), outcome)["worst.json"]) == worst


def test_what_features_tell_is_found_in_full() -> None:
    metrics = found(planted_features(40), planted_features(16), Config()).metrics
    assert metrics["top1"] == metrics["map"] == metrics["r_precision"] == 1.0
    assert metrics["raw_pixel_map"] < 1
    assert metrics["random_init_map"] < 1


def test_queries_are_limited_and_classes_that_train_lacks_do_not_ask() -> None:
    train, test = features(200, 0), features(60, 1)
    train = train.at(train.label != 2)
    assert found(train, test, Config(queries=10)).protocol["queries"] == 10
    assert found(train, test, Config()).protocol["queries"] == int((test.label != 2).sum())
    with pytest.raises(UserError, match="no test image has a class"):
        found(train, replace(test, label=torch.full_like(test.label, 2)), Config())
