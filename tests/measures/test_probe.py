from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sslpipe.measures import probe as probes
from sslpipe.measures.config import ProbeConfig as Config
from sslpipe.measures.probe import fit

QUICK = Config(epochs=20, min_steps=100, folds=3, batch_size=64)


def data(count: int, seed: int, spread: float = 1.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % 4
    return centres[labels] + spread * torch.randn(count, 12, generator=generator), labels


def train(
    x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor, left_out: list[int], classes: int, settings: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    as_it_is = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    data = probes._Standardised(x, *as_it_is, y, None)
    return probes._train(data, fold, left_out, classes, settings, seed=0)


def test_it_comes_to_the_optimum_of_scikit_learns_logistic_regression() -> None:
    """Classes overlap, so that the loss has one optimum, which nothing but the number of steps keeps from."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (q, _) = data(800, 0, spread=2.0), data(400, 1, spread=2.0)
    theirs = LogisticRegression(C=1e9, tol=1e-8, max_iter=5000).fit(x.double().numpy(), y.numpy())
    settings = Config(epochs=1500, batch_size=800, lrs=(0.3,), folds=2)
    probe = fit(x, y, 4, settings, seed=0)
    expected = torch.from_numpy(theirs.predict_proba(q.double().numpy())).float()
    torch.testing.assert_close(probe(q).softmax(1), expected, atol=1e-3, rtol=0)


def test_each_head_follows_torchs_sgd_step_for_step() -> None:
    x, y = data(60, 0)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    settings = Config(epochs=5, min_steps=1, batch_size=60, lrs=(0.1, 0.3), weight_decays=(0.0, 0.2))
    weight, bias = train(x, y, torch.zeros(60).long(), [-1], 4, settings)
    for head, (lr, decay) in enumerate(settings.heads()):
        layer = torch.nn.Linear(12, 4)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias]}]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
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
    monkeypatch.setattr(probes, "KEPT", 0)
    monkeypatch.setattr(probes, "CHUNK", 170)
    again = fit(x, y, 4, QUICK, seed=0)
    assert torch.equal(kept.weight, again.weight)
    assert kept.lr == again.lr


def test_a_weight_decay_that_forgets_everything_is_not_taken() -> None:
    x, y = data(200, 0)
    settings = QUICK.model_copy(update={"lrs": (0.1,), "weight_decays": (9.0, 0.001)})
    assert fit(x, y, 4, settings, seed=0).weight_decay == 0.001


def test_a_rate_that_learns_nothing_is_not_taken_and_a_better_one_is_whatever_comes_first() -> None:
    y = torch.arange(200) % 4
    for lrs in ((1e-9, 0.1), (0.1, 1e-9)):
        assert fit(one_hot(y).float(), y, 4, QUICK.model_copy(update={"lrs": lrs}), seed=0).lr == 0.1


def test_a_fold_that_is_left_out_is_not_learnt_from() -> None:
    # Fold 1's samples carry labels that contradict fold 0's: a head that leaves fold 1 out must not follow them.
    x = torch.cat([torch.ones(10, 1), -torch.ones(10, 1)]).repeat(2, 1)
    y = torch.cat([torch.zeros(10), torch.ones(10), torch.ones(10), torch.zeros(10)]).long()
    fold = torch.cat([torch.zeros(20), torch.ones(20)]).long()
    settings = Config(epochs=50, min_steps=1, batch_size=40, lrs=(0.1,))
    weight, bias = train(x, y, fold, [1, 0], 2, settings)
    for row, kept in enumerate((0, 1)):
        logits = x[fold == kept] @ weight[row, 0] + bias[row, 0]
        assert (logits.argmax(1) == y[fold == kept]).all()


def test_other_features_of_each_epoch_are_learned_from() -> None:
    """Views that are the features themselves change nothing; each place comes once an epoch, the epochs in order."""
    torch.manual_seed(0)
    x, labels = torch.randn(50, 6), torch.arange(50) % 3
    settings = Config(epochs=3, min_steps=1, batch_size=16, lrs=(0.1,), folds=2)
    seen: list[tuple[int, list[int]]] = []

    def views(places: Tensor, epoch: int) -> Tensor:
        seen.append((epoch, places.tolist()))
        return x[places]

    plain = fit(x, labels, 3, settings, seed=0)
    same = fit(x, labels, 3, settings, seed=0, views=views)
    torch.testing.assert_close(same.weight, plain.weight, rtol=0, atol=0)
    for epoch in range(3):
        places = [place for number, some in seen if number == epoch for place in some]
        assert sorted(places) == list(range(50))
    other = fit(x, labels, 3, settings, seed=0, views=lambda places, epoch: x[places] * (1 + epoch))
    assert not torch.equal(other.weight, plain.weight)
    assert torch.equal(other.mean, plain.mean)


def test_what_only_views_have_does_no_harm() -> None:
    """A unit that is dead in every central view, and alive in an augmented one."""
    labels = torch.arange(60) % 2
    x = 0.1 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0.0
    x[:, 0] += 4 * labels
    settings = Config(epochs=5, min_steps=1, batch_size=16, lrs=(0.1,), folds=2)
    alive = torch.tensor([0.0, 3.0, 0.0, 0.0])
    probe = fit(x, labels, 2, settings, seed=0, views=lambda places, epoch: x[places] + alive)
    assert (probe.weight[1] == 0).all()
    assert torch.equal(probe(x), probe(x + alive))
    assert torch.equal(probe(x).argmax(1), labels)
