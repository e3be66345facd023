from __future__ import annotations

from typing import Any

import pytest
import torch
from planted import ColourReader
from support import ToyReader, inputs, preprocess
from support import encoder as small
from torch import nn

from sslpipe import networks
from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.data.subset import Subset
from sslpipe.evals.base.views import mild_recipe as recipe
from sslpipe.evals.finetune import evaluate as finetune
from sslpipe.evals.finetune.evaluate import Classifier, Config, evaluate, plots
from sslpipe.evals.finetune.mixing import Config as Mixed
from sslpipe.measures.config import ProbeConfig
from sslpipe.measures.probe import fit as fit_probe

QUICK = Config(labels=16, draws=2, epochs=6, batch_size=8, lr=3e-3, device="cpu")


def encoder() -> Any:
    return small(stages=3)


def given(train: ToyReader, test: ToyReader, network: Any = None) -> Any:
    return inputs(encoder=network or encoder(), train=train, test=test, changes={})


@pytest.mark.parametrize("head", ["zero", "linear"])
def test_what_the_encoder_sees_is_told_and_random_weights_that_see_nothing_are_at_chance(
    head: str, colours: Any
) -> None:
    settings = QUICK.model_copy(update={"head": head, "epochs": 20})
    found = evaluate(given(ColourReader(64), ColourReader(32), colours), settings, seed=0)
    scores = [{"draw": number, "encoder": 1.0, "random_init": 0.25} for number in range(2)]
    assert found.metrics == {
        "top1": 1.0, "top1_std": 0.0, "random_init_top1": 0.25, "random_init_top1_std": 0.0,
        "labels": 16, "draws": scores,
    }  # fmt: skip
    assert found.protocol["head"] == head
    assert plots(inputs(), settings, found)["draws.csv"].splitlines() == [
        "draw,series,top1",
        *(f"{number},encoder,1.0000" for number in range(2)),
        *(f"{number},random_init,0.2500" for number in range(2)),
    ]


def test_the_encoder_is_left_as_it_was() -> None:
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = evaluate(
        given(ToyReader(64), ToyReader(32), network), QUICK.model_copy(update={"epochs": 1}), seed=0
    )
    assert found.metrics["labels"] == 16
    assert set(found.metrics) >= {"top1", "random_init_top1", "top1_std"}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_random_weights_learn_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def build(*given: Any, pretrained: bool) -> Classifier:
        asked.append(pretrained)
        return Classifier(*given, pretrained=pretrained)

    monkeypatch.setattr("sslpipe.evals.finetune.evaluate.Classifier", build)
    evaluate(given(ToyReader(32), ToyReader(16)), QUICK.model_copy(update={"epochs": 1}), seed=0)
    assert asked == [True, False] * QUICK.draws


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second = (evaluate(given(ToyReader(32), ToyReader(16)), QUICK, seed=3) for _ in range(2))
    assert first == second


def test_images_without_labels_are_left_out() -> None:
    some, test = ToyReader(64), ToyReader(32)
    some.labels = torch.where(torch.arange(64) < 40, some.labels, -1)
    test.labels = torch.where(torch.arange(32) < 20, test.labels, -1)
    settings = QUICK.model_copy(update={"labels": "all", "epochs": 1})
    found = evaluate(given(some, test), settings, seed=0)
    assert found.metrics["labels"] == 40
    assert found.metrics["top1"] * 20 == pytest.approx(round(found.metrics["top1"] * 20))
    assert found.protocol["test_images"] == 20


def test_all_labels_are_one_draw() -> None:
    settings = QUICK.model_copy(update={"labels": "all", "epochs": 1})
    found = evaluate(given(ToyReader(32), ToyReader(16)), settings, seed=0)
    assert (found.metrics["labels"], found.protocol["draws"]) == (32, 1)


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


def layer_of_mae(name: str, blocks: int) -> int:
    """`get_layer_id_for_vit` of MAE's util/lr_decay.py, and of BEiT's optim_factory.py, for our names."""
    parts = name.split(".")
    if "blocks" in parts:
        return int(parts[parts.index("blocks") + 1]) + 1
    first = ("cls_token", "mask_token", "pos_embed", "patch_embed")
    return 0 if any(part in first for part in parts) else blocks + 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:vit_base_patch16_224", {}),
        ("timm:beit_base_patch16_224", {}),
        ("small_vit", {"depth": 3, "position": "relative"}),
    ],
)
@pytest.mark.parametrize("norm", ["before", "after"])
def test_exponents_of_layer_decay_are_maes_and_beits(name: str, options: dict[str, Any], norm: str) -> None:
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        model = Classifier(networks.backbone(name, image_size=32, **options), 4, norm)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    found = model.backbone.blocks_and_norm()
    assert found is not None
    blocks = len(found[0])
    assert ("norm.weight" in dict(model.named_parameters())) == (norm == "after")
    scale = {
        id(p): g["lr_scale"] for g in param_groups_layer_decay(model, layer_decay=0.75) for p in g["params"]
    }
    for key, parameter in model.named_parameters():
        assert scale[id(parameter)] == pytest.approx(0.75 ** (blocks + 1 - layer_of_mae(key, blocks))), key
    assert min(scale.values()) == pytest.approx(0.75 ** (blocks + 1))


@pytest.mark.parametrize(
    ("name", "options"), [("small_vit", {}), ("timm:vit_tiny_patch16_224", {"patch_size": 8})]
)
def test_with_the_norm_after_it_is_maes_classifier(name: str, options: dict[str, Any]) -> None:
    """models_vit.py with `global_pool`: blocks, the mean of the patches, `fc_norm`, the head; no norm before."""
    network = networks.backbone(name, image_size=32, **options)
    found = network.blocks_and_norm()
    assert found is not None
    nn.init.normal_(found[1].weight)  # type: ignore[arg-type]
    x, seen = torch.randn(2, 3, 32, 32), []
    found[0][-1].register_forward_hook(lambda module, given, tokens: seen.append(tokens))
    model = Classifier(network, 4, "after").eval()
    logits = model(x)
    pooled = seen[0][:, 1:].mean(dim=1)  # [N, D]
    fresh = nn.functional.layer_norm(pooled, (network.dim,), eps=1e-6)
    torch.testing.assert_close(logits, fresh @ model.head.weight.T, rtol=1e-4, atol=1e-7)
    assert model.features(x).mean(dim=1).abs().max() < 1e-5


def test_the_head_starts_at_maes_and_beits_scale() -> None:
    """`trunc_normal_(model.head.weight, std=2e-5)`, main_finetune.py; BEiT: .02 times an `init_scale` of .001."""
    weight = Classifier(networks.backbone("small_vit", image_size=16, width=256), 200).head.weight
    assert weight.std().item() == pytest.approx(2e-5, rel=0.02)


def test_from_scratch_the_head_starts_as_all_of_a_transformer() -> None:
    """main_finetune.py sets the head where it was given a checkpoint; else it is as timm has drawn it, by .02."""
    network = networks.backbone("small_vit", image_size=16, width=256)
    weight = Classifier(network, 200, pretrained=False).head.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_what_a_network_cannot_do_is_said_before_training() -> None:
    for setting in ({"norm": "after"}, {"drop_path": 0.1}):
        with pytest.raises(UserError, match=rf"finetune\.{next(iter(setting))}: small_resnet"):
            finetune.check(encoder(), QUICK.model_copy(update=setting))
        finetune.check(small("small_vit"), QUICK.model_copy(update=setting))


def test_flips_and_turns_of_the_recipe_hold_but_not_its_crop() -> None:
    dataset = {"hflip": 0.0, "rotation": 15.0, "scale": [0.3, 1.0], "jitter": {"probability": 0.8}}
    (spec,) = recipe(preprocess(), QUICK.crop_scale, dataset).views
    assert (spec.hflip, spec.rotation, spec.scale, spec.jitter) == (0.0, 15.0, (0.5, 1.0), None)
    assert spec.mean == (0.5, 0.5, 0.5)


def test_a_head_from_the_probe_gives_the_probes_logits() -> None:
    network = encoder()
    x, y = torch.randn(40, network.dim) * 3 + 1, torch.arange(40) % 4
    probe = fit_probe(x, y, 4, ProbeConfig(epochs=5), seed=0)
    model = Classifier(network, 4)
    model.start_from(probe)
    torch.testing.assert_close(model.head(x), probe(x), rtol=1e-4, atol=1e-4)


def test_fine_tuning_may_start_from_the_probe_of_each_networks_own_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first logits of training are those of the probe, of the encoder's weights and of random ones."""
    started: list[bool] = []
    original = Classifier.start_from

    def watched(self: Classifier, probe: Any) -> None:
        original(self, probe)
        reader = Subset(ToyReader(64), torch.arange(10))
        features = finetune.central(self.backbone, reader, self.features)
        with torch.inference_mode():
            torch.testing.assert_close(self.head(features), probe(features), rtol=1e-3, atol=1e-3)
        started.append(True)

    monkeypatch.setattr(Classifier, "start_from", watched)
    settings = QUICK.model_copy(update={"head": "linear", "epochs": 1, "draws": 1})
    found = evaluate(given(ToyReader(64), ToyReader(32)), settings, seed=0)
    assert len(started) == 2
    assert found.protocol["head"] == "linear"


def test_while_frozen_only_the_new_layer_learns() -> None:
    model = Classifier(encoder(), 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = QUICK.model_copy(update={"epochs": 2, "freeze_epochs": 2, "layer_decay": 1.0})
    reader = ToyReader(16)
    views = recipe(preprocess(), settings.crop_scale, {})
    for epochs, changed in ((2, {"head.weight", "head.bias"}), (3, set(before))):
        with progress("test", 8, "steps") as bar:
            finetune.fit(
                model,
                Subset(reader, torch.arange(16)),
                views,
                settings.model_copy(update={"epochs": epochs}),
                0,
                bar,
            )
        after = model.state_dict()
        assert {name for name in before if not torch.equal(before[name], after[name])} == changed


def test_mixing_trains_on_soft_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    original = finetune.cross_entropy

    def watched(logits: torch.Tensor, target: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        seen.append(target)
        assert label_smoothing == 0
        return original(logits, target, label_smoothing=label_smoothing)

    monkeypatch.setattr(finetune, "cross_entropy", watched)
    settings = QUICK.model_copy(update={"mixing": Mixed(mixup=0.8, cutmix=1.0), "draws": 1, "epochs": 1})
    evaluate(given(ToyReader(64), ToyReader(32)), settings, seed=0)
    assert all(target.shape == (8, 4) for target in seen)
    assert any((target > 0.2).sum(1).max() > 1 for target in seen)


def test_blocks_are_skipped_where_a_backbone_can() -> None:
    vit = networks.backbone("timm:vit_tiny_patch16_224", image_size=32)
    vit.preprocess = preprocess(32)
    assert finetune.dropping(vit, 0.0) is vit
    dropped = finetune.dropping(vit, 0.2)
    assert dropped.options == {**vit.options, "drop_path": 0.2}
    assert dropped.preprocess == vit.preprocess
    dropped.load_state_dict(vit.state_dict())
