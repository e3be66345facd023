from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import ToyReader
from torch import Tensor, nn

from sslpipe.evals.base.views import mild_recipe
from sslpipe.evals.linear import evaluate as linear
from sslpipe.evals.online.evaluate import Config, evaluate
from sslpipe.networks import backbone
from sslpipe.views import centre
from sslpipe.views.engine import ViewEngine

PREPROCESS = {"size": 16, "crop": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.25,) * 3}
QUICK = Config(epochs=3, batch_size=32, rates=(0.01, 0.1), folds=2, crop_scale=(0.6, 1.0), device="cpu")


def network(name: str) -> Any:
    options: dict[str, Any] = (
        {"width": 8} if name == "small_resnet" else {"width": 16, "depth": 2, "heads": 2}
    )
    torch.manual_seed(0)
    return backbone(name, image_size=16, **options).eval()


@pytest.mark.parametrize(("name", "blocks"), [("small_resnet", 1), ("small_vit", 2)])
def test_evaluate_sets_the_encoder_beside_random_weights(name: str, blocks: int) -> None:
    train, test = ToyReader(128), ToyReader(40)
    metrics, predicted = evaluate(network(name), PREPROCESS, train, test, {}, QUICK, blocks, seed=0)
    assert metrics["top1"] > 0.5  # chance is .25
    assert metrics["top1"] == (predicted[""] == test.labels).double().mean().item()
    assert 0 < metrics["random_init_top1"] <= 1
    protocol = metrics["protocol"]
    assert set(protocol["rate_used"]) == {"encoder", "random_init_"}
    assert protocol["rate_used"]["encoder"] in QUICK.rates
    assert "cross-validation" in protocol["chosen_on"]
    assert protocol["last_blocks"] == blocks


@torch.no_grad()
def test_the_probe_is_torchs_own_training_on_the_same_views() -> None:
    """One rate, by nn.Linear, torch's SGD and its cosine, on views made here."""
    encoder, train, test = network("small_resnet"), ToyReader(70), ToyReader(60)
    settings = QUICK.model_copy(update={"rates": (0.03,), "epochs": 4})
    _, predicted = evaluate(encoder, PREPROCESS, train, test, {"hflip": 0.5}, settings, 1, seed=3)

    def central(reader: ToyReader) -> Tensor:
        features: Tensor = encoder(centre(reader.gather(torch.arange(len(reader))), **PREPROCESS))
        return features

    x = central(train)
    mean, std = x.mean(0), x.std(0, correction=0)
    std[std < 1e-6] = math.inf
    recipe = mild_recipe(16, "bilinear", (0.6, 1.0), {"hflip": 0.5}, PREPROCESS)
    engine = ViewEngine(recipe, seed=3)
    head = nn.Linear(encoder.dim, int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.03, momentum=0.9)
    steps = 4 * math.ceil(70 / 32)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    )
    generator = torch.Generator().manual_seed(3)
    for epoch in range(4):
        for places in torch.randperm(70, generator=generator).split(32):
            (view,) = engine(train.gather(places), epoch)
            features = (encoder(view.pixels) - mean) / std
            with torch.enable_grad():
                loss = nn.functional.cross_entropy(head(features), train.labels[places])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            schedule.step()
    logits = head((central(test) - mean) / std)
    assert torch.equal(logits.argmax(1), predicted[""])
    assert len(predicted[""].unique()) > 1


def test_other_features_of_each_epoch_are_learned_from() -> None:
    """Views that are the features themselves change nothing; each place comes once an epoch, the epochs in order."""
    torch.manual_seed(0)
    x, labels = torch.randn(50, 6), torch.arange(50) % 3
    settings = linear.Config(epochs=3, min_steps=1, batch_size=16, rates=(0.1,), folds=2)
    seen: list[tuple[int, list[int]]] = []

    def views(places: Tensor, epoch: int) -> Tensor:
        seen.append((epoch, places.tolist()))
        return x[places]

    plain = linear.fit(x, labels, 3, settings, seed=0)
    same = linear.fit(x, labels, 3, settings, seed=0, views=views)
    torch.testing.assert_close(same.weight, plain.weight, rtol=0, atol=0)
    for epoch in range(3):
        places = [place for number, some in seen if number == epoch for place in some]
        assert sorted(places) == list(range(50))
    other = linear.fit(x, labels, 3, settings, seed=0, views=lambda places, epoch: x[places] * (1 + epoch))
    assert not torch.equal(other.weight, plain.weight)
    assert torch.equal(other.mean, plain.mean)


def test_what_only_views_have_does_no_harm() -> None:
    """A unit that is dead in every central view, and alive in an augmented one."""
    torch.manual_seed(0)
    x, labels = torch.randn(60, 4), torch.arange(60) % 2
    x[:, 1] = 0.0
    x[:, 0] += 4 * labels
    settings = linear.Config(epochs=5, min_steps=1, batch_size=16, rates=(0.1,), folds=2)
    alive = torch.tensor([0.0, 3.0, 0.0, 0.0])
    probe = linear.fit(x, labels, 2, settings, seed=0, views=lambda places, epoch: x[places] + alive)
    assert probe.weight.abs().max() < 10
    assert torch.equal(probe(x), probe(x + alive))
    assert (probe(x).argmax(1) == labels).float().mean() > 0.9


def test_the_same_seed_gives_the_same_probe() -> None:
    train, test = ToyReader(64), ToyReader(32)
    runs = [
        evaluate(network("small_resnet"), PREPROCESS, train, test, {}, QUICK, 1, seed=s) for s in (1, 1, 2)
    ]
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1][""], runs[1][1][""])
