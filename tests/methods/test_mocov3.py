from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support import BACKBONES, SMALL, ToyReader, check_it_trains, descend, noise_views
from torch import Tensor, nn

from sslpipe import methods, networks
from sslpipe.methods import mocov3
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock
from sslpipe.training.core import optim
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views import ViewEngine
from sslpipe.views.view import View

N, M, TOTAL = 8, 0.9, 10  # the batch, the momentum's start, and how long we would train
KINDS = ("small_resnet", "small_vit")
TAU = {"small_resnet": 1.0, "small_vit": 0.2}


def clock(step: int = 0) -> Clock:
    return Clock(step, 0, step / TOTAL, torch.Generator())


def build(name: str = "small_resnet", **changes: Any) -> Any:
    """In float64, so that tolerances are tight."""
    torch.manual_seed(0)
    backbone = networks.backbone(name, image_size=16, **BACKBONES[name])
    return methods.build("mocov3", backbone, {**SMALL["mocov3"], "momentum": M, **changes}).double().train()


def views(seed: int = 0) -> list[View]:
    return noise_views(N, seed)


def train(method: Any, step: int) -> float:
    loss = method.step(views(step), clock(step)).loss
    loss.backward()
    descend(method.parameters())
    method.after_update(clock(step))
    return loss.item()


# --- the paper's loss, in plain loops ---


def contrast(q: Tensor, k: Tensor, tau: float, rank: int = 0) -> Tensor:
    """Algorithm 1's ctr, one query at a time; times 2 tau."""
    q, k = ([v / v.norm() for v in vectors] for vectors in (q, k))
    losses = []
    for n in range(len(q)):
        exps = [(q[n] @ key / tau).exp() for key in k]
        losses.append(-(exps[rank * len(q) + n] / sum(exps)).log())
    return 2 * tau * sum(losses) / len(losses)


class Official:
    """Algorithm 1 and the official training loop: the momentum network moves between queries and keys."""

    def __init__(self, method: Any, tau: float) -> None:
        self.base = copy.deepcopy(nn.Sequential(method.backbone, method.projector))
        self.momentum = copy.deepcopy(self.base)
        self.predictor = copy.deepcopy(method.predictor)
        self.tau = tau

    def train(self, step: int) -> float:
        x1, x2 = (view.pixels for view in views(step))
        q1, q2 = self.predictor(self.base(x1)), self.predictor(self.base(x2))
        with torch.no_grad():
            # The momentum of the step before: ours is read when that one is over.
            m = 1 - 0.5 * (1 + math.cos(math.pi * max(step - 1, 0) / TOTAL)) * (1 - M)
            for theta_m, theta_b in zip(self.momentum.parameters(), self.base.parameters(), strict=True):
                theta_m.copy_(m * theta_m + (1 - m) * theta_b)
            k1, k2 = self.momentum(x1), self.momentum(x2)
        loss = contrast(q1, k2, self.tau) + contrast(q2, k1, self.tau)
        loss.backward()
        descend([*self.base.parameters(), *self.predictor.parameters()])
        return float(loss.detach())


@pytest.mark.parametrize("name", KINDS)
def test_several_steps_are_the_official_codes(name: str) -> None:
    method = build(name)
    official = Official(method, TAU[name])
    for step in range(4):
        assert train(method, step) == pytest.approx(official.train(step), rel=1e-9)
    for ours, theirs in zip(method.predictor.parameters(), official.predictor.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_embed_and_loss_are_the_step() -> None:
    # What `pretrain.gradient_cache` builds on: queries and keys of any parts, the loss of all of them.
    method = build()
    expected = copy.deepcopy(method).step(views(), clock()).loss
    q1, q2, k1, k2 = method.embed(views())
    assert q1.requires_grad
    assert q2.requires_grad
    assert not k1.requires_grad
    assert not k2.requires_grad
    torch.testing.assert_close(method.loss((q1, q2, k1, k2), clock()).loss, expected)


# --- the networks ---


def layers(head: nn.Sequential) -> list[str]:
    """Such as `Linear 64-32`, `BatchNorm1d affine`."""
    words = []
    for layer in head:
        word = type(layer).__name__
        if isinstance(layer, nn.Linear):
            assert layer.bias is None
            word += f" {layer.in_features}-{layer.out_features}"
        elif isinstance(layer, nn.BatchNorm1d):
            word += " affine" if layer.affine else " plain"
        words.append(word)
    return words


def test_heads_are_the_official_codes() -> None:
    hidden = ["BatchNorm1d affine", "ReLU"]
    for name, projector_layers, predictor_end in (
        ("small_resnet", 2, []),
        ("small_vit", 3, ["BatchNorm1d plain"]),
    ):
        backbone = networks.backbone(name, image_size=16, **BACKBONES[name])
        method = methods.build("mocov3", backbone)
        middle = (projector_layers - 2) * ["Linear 4096-4096", *hidden]
        assert layers(method.projector) == [
            *(f"Linear {backbone.dim}-4096", *hidden, *middle),
            *("Linear 4096-256", "BatchNorm1d plain"),
        ]
        assert layers(method.predictor) == ["Linear 256-4096", *hidden, "Linear 4096-256", *predictor_end]


@pytest.mark.parametrize("name", KINDS)
def test_the_momentum_network_starts_as_a_copy_of_backbone_and_projector(name: str) -> None:
    method = build(name)
    ours = dict(nn.Sequential(method.backbone, method.projector).named_parameters())
    keys = dict(method.key_encoder.network.named_parameters())
    assert ours.keys() == keys.keys()
    for key, p in keys.items():
        assert torch.equal(p, ours[key])
        assert p.data_ptr() != ours[key].data_ptr()
        assert not p.requires_grad


def test_no_gradient_reaches_the_momentum_network() -> None:
    method = build()
    method.step(views(), clock()).loss.backward()
    assert all(p.grad is None for p in method.key_encoder.parameters())


def test_batch_norm_sees_one_view_at_a_time_in_train_mode_in_both_networks() -> None:
    method = build()
    seen: list[tuple[int, bool]] = []
    for network in (method.backbone, method.key_encoder):
        norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
        norm.register_forward_hook(
            lambda layer, inputs, output: seen.append((len(inputs[0]), layer.training))
        )
    method.step(views(), clock())
    assert seen == [(N, True)] * 4


@pytest.mark.parametrize("step", [0, 3, TOTAL])
def test_the_momentum_rises_along_a_cosine_and_moves_once_after_the_update(step: int) -> None:
    method = build()
    sum(
        method.step([view[rows] for view in views()], clock(step)).loss for rows in (slice(4), slice(4, 8))
    ).backward()
    old, new = method.key_encoder.network[1][0].weight.clone(), method.projector[0].weight
    assert torch.equal(old, new)
    with torch.no_grad():
        new.add_(1.0)
    method.after_update(clock(step))
    m = 1 - (1 - M) * (math.cos(math.pi * step / TOTAL) + 1) / 2
    torch.testing.assert_close(method.key_encoder.network[1][0].weight, m * old + (1 - m) * new)


def patch_embedding(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in backbone.named_parameters() if "patch_embed" in name}


@pytest.mark.parametrize("name", ["small_vit", "timm:test_vit"])
def test_a_vits_patch_embedding_stays_as_it_starts(name: str) -> None:
    backbone = networks.backbone(name, image_size=32, **BACKBONES[name])
    method = methods.build("mocov3", backbone, SMALL["mocov3"]).train()
    start = {key: p.clone() for key, p in patch_embedding(method.backbone).items()}
    assert len(start) == 2  # weight and bias
    optimizer = optim.build(method.parameter_groups(), OptimizerConfig(lr=0.1, rule="absolute"), 8)
    grouped = {id(p) for group in method.parameter_groups() for p in group.parameters}
    recipe = methods.recipe("mocov3", 32, patch_size=backbone.patch_size)
    for _ in range(2):
        method.step(
            ViewEngine(recipe, seed=0)(ToyReader(resolution=32).gather(range(8)), 0), clock()
        ).loss.backward()
        optimizer.step()
        method.after_update(clock())
    for network in (method.backbone, method.key_encoder.network[0]):
        for key, p in patch_embedding(network).items():
            assert torch.equal(p, start[key])
            assert p.grad is None
            assert id(p) not in grouped
    assert not torch.equal(method.projector[0].weight, method.key_encoder.network[1][0].weight)


def test_a_patch_embedding_may_be_trained_and_a_resnet_has_none() -> None:
    for method in (build("small_vit", freeze_patch_embedding=False), build("small_resnet")):
        method.step(views(), clock()).loss.backward()
        trainable = [
            p for p in [*method.backbone.parameters(), *method.projector.parameters()] if p.requires_grad
        ]
        assert all(p.grad is not None for p in trainable)
        assert all(p.requires_grad for p in patch_embedding(method.backbone).values())


@pytest.mark.parametrize("name", BACKBONES)
def test_it_trains_resnets_cnns_and_vits(name: str) -> None:
    check_it_trains("mocov3", name)


# --- settings that depend on the backbone ---


def test_defaults_are_the_papers_for_the_backbone() -> None:
    resnet, vit = (build(name) for name in KINDS)
    assert (resnet.temperature, vit.temperature) == (1.0, 0.2)
    lars, adamw = resnet.optimizer, vit.optimizer
    assert (lars.name, lars.peak(4096), lars.weight_decay, lars.warmup_epochs) == ("lars", 9.6, 1e-6, 10)
    assert (adamw.name, adamw.peak(256), adamw.weight_decay, adamw.warmup_epochs) == (
        "adamw",
        1.5e-4,
        0.1,
        40,
    )
    assert [lr_factor(lars, epoch, 100) for epoch in (0, 5, 10, 55, 100)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )


def test_given_values_win_and_lie_on_top_of_the_backbones() -> None:
    given = {"temperature": 0.5, "projector_layers": 4, "optimizer": {"lr": 0.1}}
    resnet, vit = (build(name, **given) for name in KINDS)
    for method in (resnet, vit):
        assert method.temperature == 0.5
        assert sum(isinstance(layer, nn.Linear) for layer in method.projector) == 4
        assert method.optimizer.lr == 0.1
    assert (resnet.optimizer.name, resnet.optimizer.weight_decay) == ("lars", 1e-6)
    assert (vit.optimizer.name, vit.optimizer.weight_decay) == ("adamw", 0.1)
    sgd = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}
    assert build("small_vit", optimizer=sgd).optimizer.name == "sgd"


def test_lars_leaves_norms_and_biases_alone() -> None:
    method = build()
    optimizer = optim.build(method.parameter_groups(), method.optimizer, 256)
    method.step(views(), clock()).loss.backward()
    expected = {}
    for name, p in method.named_parameters():
        if p.grad is not None:
            gradient = p.grad + (1e-6 * p.detach() if p.ndim > 1 else 0)
            trust = 0.001 * p.detach().norm() / gradient.norm() if p.ndim > 1 else 1.0
            expected[name] = p.detach() - 0.6 * trust * gradient
    optimizer.step()
    for name, value in expected.items():
        torch.testing.assert_close(method.get_parameter(name).detach(), value, rtol=1e-5, atol=1e-9)


def test_views_are_the_backbones() -> None:
    resnet, vit = (methods.recipe("mocov3", 224, patch_size=patch) for patch in (None, 16))
    assert [view.scale for view in resnet.views] == [(0.2, 1.0)] * 2
    assert [view.scale for view in vit.views] == [(0.08, 1.0)] * 2
    for recipe in (resnet, vit):
        first, second = recipe.views
        assert (first.blur, first.solarize, second.blur, second.solarize) == (1.0, 0.0, 0.1, 0.2)


# --- what is watched ---


def test_numbers_tell_collapse_from_learning() -> None:
    method = build()
    numbers = method.step(views(), clock()).numbers
    assert numbers["positive_similarity"] < 0.9
    eye = torch.eye(4)
    numbers = method.loss((eye, eye, eye, eye), clock()).numbers
    assert numbers == {"accuracy": 1, "positive_similarity": 1}
    one = torch.ones(4, 4)
    numbers = method.loss((one, one, one, one), clock()).numbers
    assert numbers == {"accuracy": 0.25, "positive_similarity": 1}  # all are alike: any key will do
    numbers = method.loss((eye, eye, eye, eye[[1, 0, 2, 3]]), clock()).numbers
    assert numbers == {"accuracy": 0.5, "positive_similarity": 0.5}


# --- several processes; that two are one, test_two_processes.py tests ---


@pytest.mark.parametrize("own", [0, 1])
def test_a_ranks_labels_begin_where_its_keys_do(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build()
    q1, q2, k1, k2, other1, other2 = torch.randn(6, N, 16, dtype=torch.float64)
    others = [other1, other2]  # the other rank's keys, in the order in which ours are gathered

    def gather(k: Tensor) -> Tensor:
        parts = [k, others.pop(0)]
        return torch.cat(parts if own == 0 else parts[::-1])

    monkeypatch.setattr(mocov3, "rank", lambda: own)
    monkeypatch.setattr(mocov3, "gather", gather)
    outcome = method.loss((q1, q2, k1, k2), clock())
    all1, all2 = (
        torch.cat([k, other] if own == 0 else [other, k]) for k, other in ((k1, other1), (k2, other2))
    )
    torch.testing.assert_close(outcome.loss, contrast(q1, all2, 1.0, own) + contrast(q2, all1, 1.0, own))
    similarity = nn.functional.cosine_similarity(q1, k2).mean()
    torch.testing.assert_close(outcome.numbers["positive_similarity"], similarity)
