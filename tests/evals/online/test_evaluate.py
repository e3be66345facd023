from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from planted import ColourReader
from support import ToyReader, encoder, inputs, preprocess
from torch import Tensor, nn

from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.views import mild_recipe
from sslpipe.evals.online.evaluate import Config, evaluate
from sslpipe.views.engine import ViewEngine

QUICK = Config(epochs=3, batch_size=32, lrs=(0.01, 0.1), folds=2, crop_scale=(0.6, 1.0), device="cpu")


def given(train: ToyReader, test: ToyReader, network: Any, blocks: int = 1, **changes: Any) -> Any:
    sections = {"embed": EmbedConfig(last_blocks=blocks)}
    return inputs(encoder=network, train=train, test=test, changes=changes, sections=sections)


def test_what_the_encoder_sees_is_told_and_random_weights_that_see_nothing_are_at_chance(
    colours: Any,
) -> None:
    train, test = ColourReader(64), ColourReader(32)
    found = evaluate(given(train, test, colours), QUICK.model_copy(update={"epochs": 10}), seed=0)
    assert found.metrics == {"top1": 1.0, "random_init_top1": 0.25}
    assert torch.equal(found.details[""], test.labels)


@pytest.mark.parametrize(("name", "blocks"), [("small_resnet", 1), ("small_vit", 2)])
def test_evaluate_sets_the_encoder_beside_random_weights(name: str, blocks: int) -> None:
    train, test = ToyReader(128), ToyReader(40)
    network = encoder(name, **({"depth": 2} if name == "small_vit" else {}))
    found = evaluate(given(train, test, network, blocks), QUICK, seed=0)
    for prefix in ("", "random_init_"):
        expected = (found.details[prefix] == test.labels).double().mean().item()
        assert found.metrics[f"{prefix}top1"] == expected
    assert set(found.protocol["lr_used"]) == {"encoder", "random_init_"}
    assert found.protocol["lr_used"]["encoder"] in QUICK.lrs
    assert "cross-validation" in found.protocol["chosen_on"]
    assert found.protocol["last_blocks"] == blocks


@torch.no_grad()
def test_the_probe_is_torchs_own_training_on_the_same_views() -> None:
    """One rate, by nn.Linear, torch's SGD and its cosine, on views made here."""
    network, train, test = encoder(), ToyReader(70), ToyReader(60)
    settings = QUICK.model_copy(update={"lrs": (0.03,), "epochs": 4})
    predicted = evaluate(given(train, test, network, hflip=0.5), settings, seed=3).details[""]

    def central(reader: ToyReader) -> Tensor:
        features: Tensor = network(network.preprocess.view(reader.gather(torch.arange(len(reader)))))
        return features

    x = central(train)
    mean, std = x.mean(0), x.std(0, correction=0)
    std[std < 1e-6] = math.inf
    recipe = mild_recipe(preprocess(), (0.6, 1.0), {"hflip": 0.5})
    engine = ViewEngine(recipe, seed=3)
    head = nn.Linear(network.dim, int(train.labels.max()) + 1)
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
            features = (network(view.pixels) - mean) / std
            with torch.enable_grad():
                loss = nn.functional.cross_entropy(head(features), train.labels[places])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            schedule.step()
    logits = head((central(test) - mean) / std)
    best = logits.topk(2).values
    sure = best[:, 0] - best[:, 1] > 1e-3  # where rounding may not decide
    assert len(logits[sure].argmax(1).unique()) > 1
    assert torch.equal(logits[sure].argmax(1), predicted[sure])


def test_the_same_seed_gives_the_same_probe() -> None:
    train, test = ToyReader(64), ToyReader(32)
    first, second = (evaluate(given(train, test, encoder()), QUICK, seed=1) for _ in range(2))
    assert (first.metrics, first.protocol) == (second.metrics, second.protocol)
    assert torch.equal(first.details[""], second.details[""])
