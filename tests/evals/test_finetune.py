from __future__ import annotations

from typing import Any

import pytest
import torch
from support import ToyReader

from sslpipe import networks
from sslpipe.evals.finetune import Classifier, Config, evaluate, recipe

PREPROCESS: dict[str, Any] = {
    "size": 16, "crop": 1.0, "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25),
}  # fmt: skip
QUICK = Config(labels=16, draws=2, epochs=6, batch_size=8, rate=3e-3)


def encoder() -> Any:
    torch.manual_seed(0)
    return networks.backbone("small_resnet", image_size=16, width=8, stages=3).eval()


def test_it_learns_from_few_labels_and_leaves_the_encoder_as_it_was() -> None:
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    metrics = evaluate(network, PREPROCESS, ToyReader(64), ToyReader(32), {}, QUICK, seed=0)
    assert metrics["top1"] > 0.5  # chance is .25
    assert metrics["labels"] == 16
    assert set(metrics) >= {"top1", "random_init_top1", "top1_std", "protocol"}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second = (
        evaluate(encoder(), PREPROCESS, ToyReader(32), ToyReader(16), {}, QUICK, seed=3) for _ in range(2)
    )
    assert first == second


def test_images_without_labels_are_left_out() -> None:
    some, test = ToyReader(64), ToyReader(32)
    some.labels = torch.where(torch.arange(64) < 40, some.labels, -1)
    test.labels = torch.where(torch.arange(32) < 20, test.labels, -1)
    settings = QUICK.model_copy(update={"labels": "all", "epochs": 1})
    metrics = evaluate(encoder(), PREPROCESS, some, test, {}, settings, seed=0)
    assert metrics["labels"] == 40
    assert metrics["top1"] * 20 == pytest.approx(round(metrics["top1"] * 20))
    assert metrics["protocol"]["test_images"] == 20


def test_all_labels_are_one_draw() -> None:
    settings = QUICK.model_copy(update={"labels": "all", "epochs": 1})
    metrics = evaluate(encoder(), PREPROCESS, ToyReader(32), ToyReader(16), {}, settings, seed=0)
    assert (metrics["labels"], metrics["protocol"]["draws"]) == (32, 1)


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_layer_decay_grows_from_stem_to_head_and_spares_positions(name: str) -> None:
    from timm.optim import param_groups_layer_decay

    options: dict[str, Any] = (
        {"width": 32, "depth": 2, "heads": 2, "position": "learned"} if name == "small_vit" else {"width": 8}
    )
    model = Classifier(networks.backbone(name, image_size=16, **options), 4)
    undecayed = {f"backbone.{key}" for key in model.backbone.no_weight_decay()}
    groups = param_groups_layer_decay(model, 0.05, undecayed, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    named = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert scale[id(named["head.weight"])] == 1.0
    first = next(iter(named.values()))
    assert scale[id(first)] == min(scale.values()) < 0.5
    values = [scale[id(p)] for key, p in named.items() if key not in undecayed]
    assert values == sorted(values)
    for key in undecayed & set(named):
        assert decay[id(named[key])] == 0.0
    assert decay[id(named["head.weight"])] == 0.05


def test_flips_and_turns_of_the_recipe_hold_but_not_its_crop() -> None:
    dataset = {"hflip": 0.0, "rotation": 15.0, "scale": [0.3, 1.0], "jitter": {"probability": 0.8}}
    (spec,) = recipe(16, "bilinear", QUICK, dataset, PREPROCESS).views
    assert (spec.hflip, spec.rotation, spec.scale, spec.jitter) == (0.0, 15.0, (0.5, 1.0), None)
    assert spec.mean == (0.5, 0.5, 0.5)
