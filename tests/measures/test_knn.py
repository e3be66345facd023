from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.measures import knn as neighbours
from sslpipe.measures.knn import choose, knn, leave_one_out
from sslpipe.measures.subsets import folds


def blobs(count: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(5, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, 16, generator=generator), labels


def test_accuracy_agrees_with_scikit_learns_weighted_neighbours() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    (x, y), (q, t) = blobs(300, 0), blobs(100, 1)
    temperature = 0.07
    theirs = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    ).fit(x.double().numpy(), y.numpy())
    ours = knn(x.double(), y, q.double(), t, k=20, temperature=temperature)
    assert ours["top1"] == pytest.approx(theirs.score(q.double().numpy(), t.numpy()))
    assert 0.3 < ours["top1"] < 1  # neither chance nor trivial


def test_votes_are_the_formula_in_plain_loops() -> None:
    (x, y), (q, _) = blobs(50, 0), blobs(7, 1)
    votes = neighbours.predict(x, y, q, k=5, temperature=0.1)
    for m in range(7):
        similar = sorted(
            ((float(q[m] @ x[n] / (q[m].norm() * x[n].norm())), int(y[n])) for n in range(50)), reverse=True
        )[:5]
        expected = [
            sum(math.exp(s / 0.1) for s, label in similar if label == c) for c in range(int(y.max()) + 1)
        ]
        torch.testing.assert_close(
            votes[m] / votes[m].sum(), torch.tensor(expected) / sum(expected), rtol=1e-4, atol=1e-6
        )


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (q, t) = blobs(60, 0), blobs(33, 1)
    whole = knn(x, y, q, t, k=3, temperature=0.1)
    for queries, bank in ((4, 60), (33, 7), (5, 2)):
        monkeypatch.setattr(neighbours, "QUERIES", queries)
        monkeypatch.setattr(neighbours, "BANK", bank)
        assert knn(x, y, q, t, k=3, temperature=0.1) == whole


def test_k_is_never_above_the_bank_and_a_tiny_temperature_does_not_overflow() -> None:
    x, y = torch.eye(3), torch.tensor([0, 1, 2])
    result = knn(x, y, x, y, k=20, temperature=1e-3)
    assert (result["k"], result["top1"], result["top5"]) == (3, 1.0, 1.0)


def test_scale_does_not_matter_and_k1_finds_the_same_direction() -> None:
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    queries = torch.tensor([[100.0, 1.0], [1e-3, 1.0]])
    assert knn(x, y, queries, y, k=1, temperature=0.1)["top1"] == 1.0


def test_an_unlabelled_or_empty_bank_is_refused() -> None:
    with pytest.raises(UserError, match="label"):
        knn(torch.eye(2), torch.tensor([0, -1]), torch.eye(2), torch.tensor([0, 1]), k=1, temperature=0.1)
    with pytest.raises(UserError, match="at least one"):
        knn(
            torch.empty(0, 2),
            torch.empty(0, dtype=torch.int64),
            torch.eye(2),
            torch.tensor([0, 1]),
            k=1,
            temperature=0.1,
        )


def test_leaving_one_out_is_asking_all_others() -> None:
    x, y = blobs(40, 0)
    x = torch.cat([x, x[:3]])  # copies are others
    y = torch.cat([y, y[:3]])
    hits = 0.0
    for n in range(len(x)):
        others = torch.arange(len(x)) != n
        hits += knn(x[others], y[others], x[n : n + 1], y[n : n + 1], k=7, temperature=0.1)["top1"]
    assert leave_one_out(x, y, k=7, temperature=0.1)["top1"] == pytest.approx(hits / len(x))
    assert leave_one_out(x, y, k=99, temperature=0.1)["k"] == len(x) - 1


def test_leaving_one_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(40, 0)
    whole = leave_one_out(x, y, k=7, temperature=0.1)
    monkeypatch.setattr(neighbours, "QUERIES", 9)
    monkeypatch.setattr(neighbours, "BANK", 11)
    assert leave_one_out(x, y, k=7, temperature=0.1) == whole
    with pytest.raises(UserError, match="at least two"):
        leave_one_out(x[:1], y[:1], k=1, temperature=0.1)


def test_k_and_temperature_are_chosen_as_by_trying_each() -> None:
    x, y = blobs(200, 0, spread=3.0)
    held = folds(y, 5, seed=0) == 0
    grid = [(k, t) for k in (1, 5, 40) for t in (0.05, 1.0)]
    scores = {(k, t): knn(x[~held], y[~held], x[held], y[held], k=k, temperature=t)["top1"] for k, t in grid}
    best = max(scores, key=lambda pair: scores[pair])  # the first of equals
    assert choose(x, y, grid) == best
    assert scores[best] > min(scores.values())


def test_one_pair_or_one_image_leaves_nothing_to_choose() -> None:
    x, y = blobs(9, 0)
    assert choose(x, y, [(3, 0.1)]) == (3, 0.1)
    assert choose(x[:1], y[:1], [(3, 0.1), (1, 0.1)]) == (3, 0.1)
