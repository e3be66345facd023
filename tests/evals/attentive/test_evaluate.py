from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from planted import ColourReader
from support import ToyReader, encoder, inputs

from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.evals.attentive import evaluate as attentive
from sslpipe.evals.attentive.evaluate import Config, Pooling, evaluate, patches
from sslpipe.measures.subsets import folds

QUICK = Config(epochs=4, batch_size=16, lrs=(0.003, 0.01), heads=2, device="cpu")


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


def test_what_the_encoder_sees_is_told_and_random_weights_that_see_nothing_are_at_chance(
    colours: Any,
) -> None:
    given = inputs(encoder=colours, train=ColourReader(80), test=ColourReader(32))
    found = evaluate(given, QUICK.model_copy(update={"epochs": 20}), seed=0)
    assert found.metrics == {"top1": 1.0, "random_init_top1": 0.25}
    assert torch.equal(found.details[""], given.test.labels)
    assert len(found.details["random_init_"].unique()) == 1


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_evaluate_sets_the_encoder_beside_random_weights(name: str) -> None:
    test = ToyReader(32)
    found = evaluate(inputs(encoder=encoder(name), train=ToyReader(48), test=test), QUICK, seed=0)
    for prefix in ("", "random_init_"):
        expected = (found.details[prefix] == test.labels).double().mean().item()
        assert found.metrics[f"{prefix}top1"] == expected
    assert set(found.protocol["lr_used"]) == {"encoder", "random_init_"}
    assert "held back" in found.protocol["chosen_on"]


def test_patches_are_the_encoders_tokens_in_order() -> None:
    network, reader = encoder("small_vit"), ToyReader(20)
    found = patches(network, reader, torch.device("cpu"))
    x = (reader.pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        torch.testing.assert_close(found, network.tokens(x), rtol=1e-4, atol=1e-4)


def test_what_a_patch_alone_shows_is_found() -> None:
    """The class is in one patch of sixteen, at a random place; the others take it out of the average again."""
    labels = torch.arange(64) % 4
    place = torch.randint(16, (64,), generator=torch.Generator().manual_seed(0))
    x = torch.zeros(64, 16, 8)
    x[torch.arange(64), :, labels] = -6 / 15
    x[torch.arange(64), place, labels] = 6
    torch.testing.assert_close(x.mean(1), torch.zeros(64, 8), atol=1e-6, rtol=0)
    settings = QUICK.model_copy(update={"epochs": 60})
    with progress("test", 60, "epochs") as bar:
        (model,) = attentive.fit(x, labels, 4, (0.01,), settings, 0, bar)
    assert torch.equal(attentive.predict(model, x), labels)


def test_the_rate_is_chosen_on_images_held_back_as_by_training_each_alone() -> None:
    labels = torch.arange(80) % 4
    x = torch.nn.functional.one_hot(labels, 8).float()[:, None].repeat(1, 3, 1)
    lrs = (1e-7, 0.01)
    with progress("test", 80, "epochs") as bar:
        for order in (lrs, lrs[::-1]):
            settings = QUICK.model_copy(update={"lrs": order, "epochs": 20})
            assert attentive.choose(x, labels, 4, settings, 0, bar) == 0.01
        held = folds(labels, attentive.HELD_BACK, 0) == 0
        both = attentive.fit(x, labels, 4, lrs, settings, 0, bar, (~held).nonzero()[:, 0])
        (alone,) = attentive.fit(x[~held], labels[~held], 4, lrs[1:], settings, 0, bar)
    assert torch.equal(both[1].head.weight, alone.head.weight)


def test_too_many_patches_and_odd_heads_are_refused() -> None:
    given = inputs(encoder=encoder("small_vit"), train=ToyReader(8), test=ToyReader(8))
    with pytest.raises(UserError, match=r"of 16 images take 0.0 GB; raise attentive.memory"):
        evaluate(given, QUICK.model_copy(update={"memory": 1e-9}), 0)
    with pytest.raises(UserError, match="does not divide"):
        evaluate(given, QUICK.model_copy(update={"heads": 3}), 0)


def test_a_last_batch_of_one_image_of_one_patch_is_left_out() -> None:
    x, labels = torch.randn(17, 1, 8), torch.arange(17) % 4
    with progress("test", 1, "epochs") as bar:
        (model,) = attentive.fit(x, labels, 4, (0.01,), QUICK.model_copy(update={"epochs": 1}), 0, bar)
    assert attentive.predict(model, x).shape == (17,)
