from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import ToyReader

from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.evals.attentive import evaluate as attentive
from sslpipe.evals.attentive.evaluate import Config, Pooling, evaluate, patches
from sslpipe.measures.subsets import folds
from sslpipe.networks import backbone

PREPROCESS = {"size": 16, "crop": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.25,) * 3}
QUICK = Config(epochs=4, batch_size=16, rates=(0.003, 0.01), heads=2, device="cpu")


def network(name: str) -> Any:
    options: dict[str, Any] = (
        {"width": 8} if name == "small_resnet" else {"width": 16, "depth": 1, "heads": 2}
    )
    torch.manual_seed(0)
    return backbone(name, image_size=16, **options).eval()


@torch.no_grad()
def test_pooling_is_the_formula_in_plain_loops() -> None:
    torch.manual_seed(0)
    model = Pooling(6, 3, heads=2).double().eval()
    model.query.data.normal_()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    for n in range(2):
        pooled = []
        for h in range(2):
            part = slice(3 * h, 3 * h + 3)
            score = [
                float(model.query[h] @ (model.key.weight @ x[n, p] / math.sqrt(1 + 1e-6))[part])
                for p in range(5)
            ]
            weight = [math.exp(s / math.sqrt(3)) for s in score]
            value = sum(
                w * (model.value.weight @ x[n, p] / math.sqrt(1 + 1e-6))[part] for p, w in enumerate(weight)
            )
            pooled.append(value / sum(weight))
        expected = model.head.weight @ torch.cat(pooled) + model.head.bias
        torch.testing.assert_close(model(x)[n], expected)


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_evaluate_sets_the_encoder_beside_random_weights(name: str) -> None:
    settings = QUICK.model_copy(update={"epochs": 20})
    train, test = ToyReader(96), ToyReader(32)
    metrics, predicted = evaluate(network(name), PREPROCESS, train, test, settings, seed=0)
    assert metrics["top1"] > 0.5  # chance is .25
    assert metrics["top1"] == (predicted[""] == test.labels).double().mean().item()
    assert 0 < metrics["random_init_top1"] <= 1
    assert "held back" in metrics["protocol"]["chosen_on"]


def test_patches_are_the_encoders_tokens_in_order() -> None:
    encoder, reader = network("small_vit"), ToyReader(20)
    found = patches(encoder, reader, PREPROCESS, torch.device("cpu"))
    x = (reader.pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        torch.testing.assert_close(found, encoder.tokens(x), rtol=1e-4, atol=1e-4)


def test_what_a_patch_alone_shows_is_found() -> None:
    """The class is in one patch of sixteen, at a random place; the average drowns it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 4
    x = torch.randn(256, 16, 8, generator=generator)
    place = torch.randint(16, (256,), generator=generator)
    x[torch.arange(256), place, :] = 0
    x[torch.arange(256), place, labels] = 6
    settings = QUICK.model_copy(update={"epochs": 30})
    with progress("test", 30, "epochs") as bar:
        (model,) = attentive.fit(x, labels, 4, (0.01,), settings, 0, bar)
    assert (attentive.predict(model, x) == labels).double().mean() > 0.95


def test_the_rate_is_chosen_on_images_held_back_as_by_training_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 4
    x = torch.randn(80, 3, 8, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 8)[:, None]
    rates = (1e-7, 0.01)
    with progress("test", 9, "epochs") as bar:
        settings = QUICK.model_copy(update={"rates": rates})
        assert attentive.choose(x, labels, 4, settings, 0, bar) == 0.01
        held = folds(labels, attentive.HELD_BACK, 0) == 0
        both = attentive.fit(x, labels, 4, rates, settings, 0, bar, (~held).nonzero()[:, 0])
        (alone,) = attentive.fit(x[~held], labels[~held], 4, rates[1:], settings, 0, bar)
    assert torch.equal(both[1].head.weight, alone.head.weight)


def test_too_many_patches_and_odd_heads_are_refused() -> None:
    little = QUICK.model_copy(update={"memory": 1e-9})
    with pytest.raises(UserError, match=r"of 16 images take 0.0 GB; raise attentive.memory"):
        evaluate(network("small_vit"), PREPROCESS, ToyReader(8), ToyReader(8), little, 0)
    with pytest.raises(UserError, match="does not divide"):
        evaluate(
            network("small_vit"),
            PREPROCESS,
            ToyReader(8),
            ToyReader(8),
            QUICK.model_copy(update={"heads": 3}),
            0,
        )


def test_a_last_batch_of_one_image_of_one_patch_is_left_out() -> None:
    x, labels = torch.randn(17, 1, 8), torch.arange(17) % 4
    with progress("test", 1, "epochs") as bar:
        (model,) = attentive.fit(x, labels, 4, (0.01,), QUICK.model_copy(update={"epochs": 1}), 0, bar)
    assert attentive.predict(model, x).shape == (17,)
