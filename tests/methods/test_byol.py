from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from sslpipe import methods, networks
from sslpipe.methods.base.method import Clock


def build(momentum: float = 0.9) -> Any:
    torch.manual_seed(0)
    backbone = networks.backbone("small_resnet", image_size=16, width=8, stages=3)
    config = {"momentum": momentum, "projector_hidden": 32, "projector_out": 16, "predictor_hidden": 32}
    return methods.build("byol", backbone, config).train()


def views(reader: Any) -> Any:
    from sslpipe.views import ViewEngine

    return ViewEngine(methods.recipe("byol", 16), seed=0)(reader.gather(range(16)), 0)


def clock(progress: float) -> Clock:
    return Clock(0, 0, progress, torch.Generator())


def test_the_target_starts_as_a_copy_of_backbone_and_projector() -> None:
    method = build()
    online = nn.Sequential(method.backbone, method.projector)
    for a, b in zip(online.parameters(), method.target.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_heads_end_without_a_bias_as_the_official_networks_do() -> None:
    """`networks.py` of the official code: a linear layer, batch norm, relu, a linear layer `with_bias=False`."""
    method = build()
    for head in (method.projector, method.predictor):
        linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
        assert len(linear) == 2
        assert linear[-1].bias is None


def test_the_loss_is_equation_2_both_ways(toy_reader: Any) -> None:
    method = build().double()
    v1, v2 = (view.pixels.double() for view in views(toy_reader))
    reference = copy.deepcopy(method)
    total = 0.0
    for x, y in ((v1, v2), (v2, v1)):
        q = reference.predictor(reference.projector(reference.backbone(x)))
        z = reference.target(y)
        for n in range(len(q)):
            q_bar, z_bar = q[n] / q[n].norm(), z[n] / z[n].norm()
            total += float(((q_bar - z_bar) ** 2).sum().detach()) / len(q)
    pair = [copy.copy(view) for view in views(toy_reader)]
    for view, pixels in zip(pair, (v1, v2), strict=True):
        object.__setattr__(view, "pixels", pixels)
    assert math.isclose(method.step(pair, clock(0)).loss.item(), total, rel_tol=1e-9)


def test_batch_norm_sees_one_view_at_a_time(toy_reader: Any) -> None:
    # Two views together would normalise by common statistics: the features of one would depend on the other.
    method, pair = build(), views(toy_reader)
    seen: list[int] = []
    norm = next(m for m in method.backbone.modules() if "BatchNorm" in type(m).__name__)
    norm.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    method.step(pair, clock(0))
    assert seen == [16, 16]


def test_the_targets_batch_norm_runs_in_train_mode(toy_reader: Any) -> None:
    method = build()
    norm = next(m for m in method.target.modules() if "BatchNorm" in type(m).__name__)
    before = norm.running_mean.clone()
    method.step(views(toy_reader), clock(0))
    assert norm.training
    assert not torch.equal(before, norm.running_mean)


def test_the_target_moves_after_the_update_by_the_cosine_momentum() -> None:
    for progress in (0.0, 0.3, 1.0):
        method = build(momentum=0.9)
        with torch.no_grad():
            method.projector[0].weight.add_(1.0)
        old = method.target.network[1][0].weight.clone()
        method.after_update(clock(progress))
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
        expected = tau * old + (1 - tau) * method.projector[0].weight
        torch.testing.assert_close(method.target.network[1][0].weight, expected)


def test_no_gradient_reaches_the_target(toy_reader: Any) -> None:
    method = build()
    method.step(views(toy_reader), clock(0)).loss.backward()
    assert all(p.grad is None for p in method.target.parameters())


def test_the_two_views_differ_as_in_table_6() -> None:
    first, second = methods.recipe("byol", 224).views
    assert (first.blur, first.solarize, second.blur, second.solarize) == (1.0, 0.0, 0.1, 0.2)
    assert first.jitter is not None
    assert (first.jitter.brightness, first.jitter.saturation, first.jitter.hue) == (0.4, 0.2, 0.1)
