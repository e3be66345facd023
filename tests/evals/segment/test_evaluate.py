from __future__ import annotations

import numpy as np
import pytest
import torch
from support import ToyReader

from sslpipe.console.progress import progress
from sslpipe.evals.segment import evaluate as segment
from sslpipe.evals.segment.evaluate import (
    IGNORED,
    Config,
    Head,
    dense,
    evaluate,
    intersection_over_union,
    majority,
)
from sslpipe.networks import backbone
from sslpipe.scenes import composed as scenes

PREPROCESS = {"size": 16, "crop": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.25,) * 3}
QUICK = Config(scenes=scenes.Config(train=24, test=12), epochs=8, rates=(0.01, 0.03), k=5, device="cpu")


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
    encoder = backbone("small_resnet", image_size=16, width=4).eval()
    pixels = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    found = dense(encoder, pixels, PREPROCESS, 1, torch.device("cpu"))
    with torch.no_grad():
        expected = encoder.maps((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    torch.testing.assert_close(found, expected)


def test_the_head_learns_what_features_say() -> None:
    masks = torch.from_numpy(
        np.kron(np.random.default_rng(0).integers(0, 3, (16, 4, 4)), np.ones((4, 4), int))
    )
    features = torch.nn.functional.one_hot(masks[:, ::4, ::4], 3).permute(0, 3, 1, 2).float()
    with progress("test", 20, "epochs") as bar:
        head = segment.fit(features, masks, 3, 0.1, QUICK.model_copy(update={"epochs": 20}), 0, bar)
    assert isinstance(head, Head)
    found = segment.predict(head, features, 16)
    assert (found == masks).double().mean() > 0.85  # logits are smooth between patches
    votes = segment.neighbours(features, masks, features, 2, QUICK, seed=0)
    assert torch.equal(votes.argmax(1), masks[:, ::4, ::4])


@pytest.mark.parametrize(
    ("name", "options"),
    [("small_resnet", {"width": 8}), ("small_vit", {"width": 16, "depth": 1, "heads": 2})],
)
def test_evaluate_sets_the_encoder_beside_random_weights(name: str, options: dict[str, int]) -> None:
    reader = ToyReader(40)
    train, test = (
        scenes.compose(reader, split, count, 16, QUICK.scenes, seed=0)
        for split, count in (("train", 24), ("test", 12))
    )
    encoder = backbone(name, image_size=16, **options).eval()
    settings = QUICK.model_copy(update={"epochs": 25})
    metrics, masks = evaluate(encoder, PREPROCESS, train, test, 4, settings, seed=0)
    assert masks.shape == test.masks.shape
    expected = intersection_over_union(masks, test.masks, 5).nanmean().item()
    assert metrics["miou"] == pytest.approx(expected)
    nothing = intersection_over_union(torch.zeros_like(masks), test.masks, 5).nanmean().item()
    assert metrics["miou"] > 1.5 * nothing
    assert 0 < metrics["random_init_miou"] < 1
    assert 0 < metrics["knn_miou"] < 1
    assert len(metrics["iou"]) == 5
    assert "held back" in metrics["protocol"]["chosen_on"]


def test_an_encoder_that_learns_fits_better_and_the_given_one_stays() -> None:
    train = scenes.compose(ToyReader(40), "train", 24, 16, QUICK.scenes, seed=0)
    torch.manual_seed(0)
    encoder = backbone("small_resnet", image_size=16, width=8).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    settings = QUICK.model_copy(update={"epochs": 20, "freeze": False, "finetune_rate": 3e-3})
    frozen = settings.model_copy(update={"freeze": True})
    metrics, both = (
        evaluate(encoder, PREPROCESS, train, train, 4, each, 0)[0] for each in (frozen, settings)
    )
    assert set(both) - set(metrics) == {"finetuned_miou", "random_init_finetuned_miou"}
    assert both["miou"] == metrics["miou"]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())

    def loss(head: Head) -> float:
        logits = segment.enlarged(head(dense(encoder, train.pixels, PREPROCESS, 3, torch.device("cpu"))), 32)
        return torch.nn.functional.cross_entropy(logits, train.masks, ignore_index=IGNORED).item()

    with progress("test", 40, "epochs") as bar:
        features = dense(encoder, train.pixels, PREPROCESS, 3, torch.device("cpu"))
        head = segment.fit(features, train.masks, 5, 0.03, settings, 0, bar)
        first = loss(head)
        segment.finetune(encoder, head, train, PREPROCESS, settings, 0, bar)
    assert loss(head) < 0.9 * first


def test_test_masks_choose_nothing() -> None:
    reader = ToyReader(40)
    train = scenes.compose(reader, "train", 24, 16, QUICK.scenes, seed=0)
    test = scenes.compose(reader, "test", 12, 16, QUICK.scenes, seed=0)
    other = scenes.Scenes(test.pixels, (test.masks + 1) % 5, test.boxes, test.labels)
    encoder = backbone("small_resnet", image_size=16, width=4).eval()
    first, second = (evaluate(encoder, PREPROCESS, train, each, 4, QUICK, seed=0) for each in (test, other))
    assert torch.equal(first[1], second[1])
    assert first[0]["protocol"] == second[0]["protocol"]
