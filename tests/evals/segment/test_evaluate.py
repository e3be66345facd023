from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from planted import PALETTE
from support import ToyReader, encoder, inputs

from sslpipe.console.progress import progress
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.segment import evaluate as segment
from sslpipe.evals.segment.evaluate import (
    IGNORED,
    Config,
    Head,
    dense,
    evaluate,
    intersection_over_union,
    majority,
    plots,
)
from sslpipe.networks.pyramid import hypercolumns, pyramid
from sslpipe.scenes import composed as scenes

QUICK = Config(scenes=scenes.Config(train=24, test=12), epochs=8, lrs=(0.01, 0.03), k=5, device="cpu")


NAMES = ["a", "b", "c", "d"]


def composed(split: str, count: int) -> scenes.Scenes:
    return scenes.compose(ToyReader(40), split, count, 16, QUICK.scenes, seed=0)


def some_masks(seed: int, classes: int = 3) -> torch.Tensor:
    masks = torch.randint(classes, (4, 12, 12), generator=torch.Generator().manual_seed(seed))
    masks[0, :3] = IGNORED
    return masks


def test_intersection_over_union_is_torchmetrics_and_plain_loops() -> None:
    from torchmetrics.functional.classification import multiclass_jaccard_index

    truth, predicted = some_masks(0), some_masks(1).clamp_max(2)
    found = intersection_over_union(predicted, truth, 3)
    theirs = multiclass_jaccard_index(predicted, truth, num_classes=3, average="none", ignore_index=IGNORED)
    torch.testing.assert_close(found.float(), theirs)
    for c in range(3):
        both = either = 0
        for p, t in zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True):
            if t != IGNORED:
                both += p == c == t
                either += c in (p, t)
        assert float(found[c]) == pytest.approx(both / either)


def test_a_class_that_neither_has_counts_for_nothing() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.int64)
    scores = intersection_over_union(truth, truth, 3)
    assert scores[0] == 1
    assert scores[1:].isnan().all()


def test_a_patch_has_its_most_frequent_class_and_none_where_all_is_ignored() -> None:
    mask = torch.tensor(
        [[0, 0, 1, IGNORED], [0, 2, 1, IGNORED], [IGNORED, IGNORED, 2, 2], [IGNORED, IGNORED, 2, 1]]
    )
    assert majority(mask[None], (2, 2), 3).tolist() == [[[0, 1], [IGNORED, 2]]]


def test_features_are_the_encoders_of_the_normalised_scene() -> None:
    network = encoder(width=4)
    pixels = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    found = dense(network, pixels, 1, torch.device("cpu"))
    with torch.no_grad():
        expected = network.maps((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    torch.testing.assert_close(found, expected)


def test_the_head_learns_what_features_say() -> None:
    masks = torch.from_numpy(
        np.kron(np.random.default_rng(0).integers(0, 3, (16, 4, 4)), np.ones((4, 4), int))
    )
    features = torch.nn.functional.one_hot(masks[:, ::4, ::4], 3).permute(0, 3, 1, 2).float()
    with progress("test", 20, "epochs") as bar:
        head = segment.fit(features, masks, 3, 0.1, QUICK.model_copy(update={"epochs": 20}), 0, bar)
    assert isinstance(head, Head)
    # Of a patch each; between their centres logits are smooth.
    assert torch.equal(segment.predict(head, features, 4), masks[:, ::4, ::4])
    with torch.inference_mode():
        logits = head(features)
    smooth = torch.nn.functional.interpolate(logits, (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(segment.predict(head, features, 16), smooth.argmax(1))
    votes = segment.neighbours(features, masks, features, 2, QUICK, seed=0)
    assert torch.equal(votes.argmax(1), masks[:, ::4, ::4])


def whole(count: int) -> scenes.Scenes:
    """Scenes all of one class each, black where it is the background; as many of each where five divides `count`."""
    classes = torch.arange(count) % 5
    colours = torch.cat([torch.zeros(1, 3, dtype=torch.uint8), PALETTE])[classes]
    pixels = colours[:, None, None].repeat(1, 32, 32, 1)
    return scenes.Scenes(pixels, classes[:, None, None].repeat(1, 32, 32), [], [])


def test_what_the_encoder_sees_is_told_and_random_weights_that_see_nothing_are_at_chance(
    colours: Any,
) -> None:
    settings = QUICK.model_copy(update={"epochs": 25, "lrs": (0.1, 0.01), "freeze": False})
    train, test = whole(40), whole(20)
    found = evaluate(inputs(encoder=colours, made={"masks": (train, test, NAMES)}), settings, seed=0)
    assert found.metrics["miou"] == found.metrics["knn_miou"] == found.metrics["finetuned_miou"] == 1.0
    assert found.metrics["iou"] == [1.0] * 5
    assert found.metrics["pixel_accuracy"] == 1.0
    assert torch.equal(found.details[1], test.masks)
    # One class everywhere: a fifth of the pixels is right.
    for name in ("random_init_miou", "random_init_finetuned_miou"):
        assert found.metrics[name] == pytest.approx(1 / 25)


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_evaluate_sets_the_encoder_beside_random_weights(name: str) -> None:
    train, test = composed("train", 24), composed("test", 12)
    found = evaluate(inputs(encoder=encoder(name), made={"masks": (train, test, NAMES)}), QUICK, seed=0)
    told, masks = found.details
    assert told is test
    assert masks.shape == test.masks.shape
    scores = intersection_over_union(masks, test.masks, 5)
    assert found.metrics["miou"] == pytest.approx(scores.nanmean().item())
    assert found.metrics["iou"] == [None if score.isnan() else score.item() for score in scores]
    right = (masks == test.masks)[test.masks != IGNORED].double().mean().item()
    assert found.metrics["pixel_accuracy"] == right
    assert 0 <= found.metrics["random_init_miou"] <= 1
    assert 0 <= found.metrics["knn_miou"] <= 1
    assert found.protocol["class_names"] == NAMES
    assert "held back" in found.protocol["chosen_on"]


def test_an_encoder_that_learns_is_scored_beside_and_the_given_one_stays() -> None:
    train, network = composed("train", 24), encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    settings = QUICK.model_copy(update={"epochs": 2, "freeze": False, "finetune_lr": 3e-3})
    frozen = settings.model_copy(update={"freeze": True})
    given = inputs(encoder=network, made={"masks": (train, train, NAMES)})
    metrics, both = (evaluate(given, each, 0).metrics for each in (frozen, settings))
    assert set(both) - set(metrics) == {"finetuned_miou", "random_init_finetuned_miou"}
    assert both["miou"] == metrics["miou"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_encoder_and_head_learn_as_by_a_plain_loop() -> None:
    train, settings = composed("train", 48), QUICK.model_copy(update={"epochs": 2, "finetune_lr": 3e-3})
    network = encoder()
    with progress("test", 10, "epochs") as bar:
        features = dense(network, train.pixels, 3, torch.device("cpu"))
        head = segment.fit(features, train.masks, 5, 0.03, settings, 0, bar)
        plain = copy.deepcopy(torch.nn.ModuleList([network, head]))
        segment.finetune(network, head, train, settings, 0, bar)

    learning = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, 3e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(2):
        for step, rows in enumerate(torch.randperm(48, generator=generator).split(32)):
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 + math.cos(math.pi * (2 * epoch + step) / 4)) / 2
            x = (train.pixels[rows].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
            logits = plain[1](hypercolumns(pyramid(plain[0], x, 3)))
            logits = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
            loss = torch.nn.functional.cross_entropy(logits, train.masks[rows], ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(
            head(dense(network, train.pixels, 3, torch.device("cpu"))),
            plain[1](dense(plain[0], train.pixels, 3, torch.device("cpu"))),
            rtol=1e-2,
            atol=1e-2,
        )
    assert not torch.equal(network.state_dict()["stem.0.weight"], encoder().state_dict()["stem.0.weight"])


def test_test_masks_choose_nothing() -> None:
    train, test = composed("train", 24), composed("test", 12)
    other = scenes.Scenes(test.pixels, (test.masks + 1) % 5, test.boxes, test.labels)
    first, second = (
        evaluate(inputs(encoder=encoder(width=4), made={"masks": (train, each, NAMES)}), QUICK, seed=0)
        for each in (test, other)
    )
    assert torch.equal(first.details[1], second.details[1])
    assert first.protocol == second.protocol


def test_some_scenes_are_drawn() -> None:
    test = composed("test", 4)
    found = Outcome(metrics={}, protocol={}, details=(test, test.masks))
    png = plots(inputs(), QUICK.model_copy(update={"shown": 2}), found)["scenes.png"]
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (2 * 128 + 6, 3 * 128 + 2 * 6)
