from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from support import KINDS, check_it_trains, noise_views, small_method
from torch import Tensor, nn

from sslpipe import methods, networks
from sslpipe.methods.base.method import Clock
from sslpipe.training.core import optim
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views.view import View

N = 8


def clock(step: int = 0, total: int = 100) -> Clock:
    return Clock(step, 0, step / total, torch.Generator())


def build(**changes: Any) -> Any:
    """In float64, so that tolerances are tight."""
    return small_method("simsiam", **changes).double().train()


def views(n: int = N) -> list[View]:
    return noise_views(n)


# --- algorithm 1, in plain loops ---


def algorithm_1(method: Any, stop_gradient: bool = True) -> Tensor:
    """The paper's, one image at a time."""
    z1, z2 = (method.projector(method.backbone(view.pixels)) for view in views())
    p1, p2 = method.predictor(z1), method.predictor(z2)

    def D(p: Tensor, z: Tensor) -> Tensor:
        z = z.detach() if stop_gradient else z
        return sum(-(p[n] / p[n].norm()) @ (z[n] / z[n].norm()) for n in range(N)) / N

    return D(p1, z2) / 2 + D(p2, z1) / 2


def test_loss_and_gradients_are_algorithm_1s_and_its_stop_gradient_counts() -> None:
    method = build()
    official, leaking = copy.deepcopy(method), copy.deepcopy(method)
    loss = method.step(views(), clock()).loss
    loss.backward()
    expected = algorithm_1(official)
    expected.backward()
    algorithm_1(leaking, stop_gradient=False).backward()
    torch.testing.assert_close(loss, expected)
    differs = []
    for ours, theirs, others in zip(*(m.parameters() for m in (method, official, leaking)), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
        differs.append(not torch.allclose(theirs.grad, others.grad))
    assert any(differs)


def test_the_target_side_carries_no_gradient() -> None:
    # Were the predictor's output blind to its input, only a leak through the targets could reach the encoder.
    method = build()
    with torch.no_grad():
        method.predictor[-1].weight.zero_()
    method.step(views(), clock()).loss.backward()
    for network in (method.backbone, method.projector):
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in network.parameters())
    assert method.predictor[-1].bias.grad.abs().sum() > 0


def test_it_is_symmetric() -> None:
    method = build()
    swapped = copy.deepcopy(method).step(views()[::-1], clock()).loss
    torch.testing.assert_close(method.step(views(), clock()).loss, swapped)


def test_loss_and_heads_are_lightlys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's own
        losses = pytest.importorskip("lightly.loss", reason="lightly is not installed")
        heads = pytest.importorskip("lightly.models.modules.heads", reason="lightly is not installed")
    method = build()
    projector = heads.SimSiamProjectionHead(method.backbone.dim, 32, 32).double()
    predictor = heads.SimSiamPredictionHead(32, 8, 32).double()
    for theirs, ours in ((projector, method.projector), (predictor, method.predictor)):
        values = [
            v for name, v in theirs.state_dict().items() if not name.endswith("6.bias") or theirs is predictor
        ]
        state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
        assert len(values) == len(state)
        theirs.load_state_dict(state)
    x1, x2 = (view.pixels for view in views())
    backbone = copy.deepcopy(method.backbone)
    z1, z2 = projector(backbone(x1)), projector(backbone(x2))
    p1, p2 = predictor(z1), predictor(z2)
    criterion = losses.NegativeCosineSimilarity()
    expected = 0.5 * (criterion(p1, z2.detach()) + criterion(p2, z1.detach()))
    torch.testing.assert_close(method.step(views(), clock()).loss, expected)


# --- the networks ---


def test_heads_are_the_official_codes() -> None:
    backbone = networks.backbone("small_resnet", image_size=16, width=8, stages=3)
    method = methods.build("simsiam", backbone)
    kinds = [type(layer).__name__ for layer in method.projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    sizes = [
        (layer.in_features, layer.out_features) for layer in method.projector if isinstance(layer, nn.Linear)
    ]
    assert sizes == [(backbone.dim, 2048), (2048, 2048), (2048, 2048)]
    assert not method.projector[-1].affine
    assert all(layer.bias is None for layer in method.projector if isinstance(layer, nn.Linear))
    assert [type(layer).__name__ for layer in method.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    first, last = method.predictor[0], method.predictor[3]
    assert (first.weight.shape, last.weight.shape) == ((512, 2048), (2048, 512))
    assert first.bias is None
    assert last.bias is not None


def test_a_fixed_bias_before_the_projectors_last_norm_would_change_nothing() -> None:
    # The official code keeps one there, without gradient.
    method = build()
    expected = copy.deepcopy(method).step(views(), clock()).loss
    bias = nn.Parameter(torch.randn(32, dtype=torch.float64), requires_grad=False)
    method.projector[-2].bias = bias
    torch.testing.assert_close(method.step(views(), clock()).loss, expected)


def test_batch_norm_sees_one_view_at_a_time() -> None:
    method, seen = build(), []
    for network in (method.backbone, method.projector, method.predictor):
        norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d))
        norm.register_forward_hook(lambda layer, inputs, output: seen.append(len(inputs[0])))
    method.step(views(), clock())
    assert seen == [N] * 6


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_resnets_cnns_and_vits(name: str) -> None:
    check_it_trains("simsiam", name)


# --- the rate ---


def test_the_predictor_keeps_its_scaled_rate_and_everything_else_follows_the_cosine() -> None:
    method = build()
    config = methods.configure("simsiam").optimizer
    optimizer = optim.build(method.parameter_groups(), config, 512)
    predictor = {id(p) for p in method.predictor.parameters()}
    seen = set()
    for epoch in (0.0, 50.0, 100.0):
        optim.set_lrs(optimizer, config, clock(int(epoch)), epoch, 100)
        for group in optimizer.param_groups:
            for p in group["params"]:
                expected = 0.1 if id(p) in predictor else 0.1 * lr_factor(config, epoch, 100)
                assert group["lr"] == pytest.approx(expected)
                seen.add(id(p))
    assert seen == {id(p) for p in method.parameters()}


def test_the_predictors_biases_and_norms_are_not_decayed_either() -> None:
    method = build()
    groups = method.parameter_groups()
    assert sorted((group.decay, group.fixed_lr) for group in groups) == [
        (decay, fixed) for decay in (False, True) for fixed in (False, True)
    ]
    for group in groups:
        assert all((p.ndim > 1) == group.decay for p in group.parameters)


def test_the_default_optimiser_is_the_official_codes() -> None:
    config = methods.configure("simsiam").optimizer
    assert (config.name, config.peak(512), config.weight_decay, config.momentum) == ("sgd", 0.1, 1e-4, 0.9)
    assert [lr_factor(config, epoch, 100) for epoch in (0, 50, 100)] == pytest.approx(
        [1, 0.5, 0]
    )  # no warm-up


def test_views_are_moco_v2s() -> None:
    (view,) = methods.recipe("simsiam", 224).views
    (theirs,) = methods.recipe("moco", 224).views
    assert view == theirs
    assert view.count == 2


# --- what is watched ---


def test_numbers_tell_collapse_from_learning() -> None:
    method = build(projector_out=256)
    numbers = copy.deepcopy(method).step(views(n=64), clock()).numbers
    assert numbers["output_std"].item() == pytest.approx(1, abs=0.1)
    assert abs(numbers["cosine"]) < 0.9

    class Constant(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return torch.ones(len(h), 256, dtype=h.dtype)

    method.projector = Constant()
    assert method.step(views(), clock()).numbers["output_std"] == 0
