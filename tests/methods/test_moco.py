from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

import pytest
import torch
from support import KINDS, check_it_trains, descend, noise_views, small_method
from torch import nn

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.core import distributed
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock
from sslpipe.training.core.schedules import lr_factor
from sslpipe.views.view import View

N, K, C, M, TAU = 8, 24, 16, 0.9, 0.2  # the batch, the queue, and what trains here


def clock(step: int = 0) -> Clock:
    return Clock(step, 0, 0.0, torch.Generator().manual_seed(step))


def build(**changes: Any) -> Any:
    """In float64, so that tolerances are tight."""
    method: Any = small_method("moco", **{"queue": K, "temperature": TAU, **changes}).double().train()
    method.queue.vectors = nn.functional.normalize(
        method.queue.vectors, dim=1
    )  # they were of unit length in float32
    return method


def views(seed: int = 0) -> list[View]:
    return noise_views(N, seed)


def train(method: Any, step: int) -> float:
    loss = method.step(views(step), clock(step)).loss
    loss.backward()
    descend(method.parameters())
    method.after_update(clock(step))
    return loss.item()


# --- the official code's order, in plain loops ---


class Official:
    """Algorithm 1 and main_moco.py, one query and one key at a time."""

    def __init__(self, method: Any) -> None:
        self.f_q = copy.deepcopy(nn.Sequential(method.backbone, method.projector))
        self.f_k = copy.deepcopy(self.f_q)
        self.queue = [vector.clone() for vector in method.queue.vectors]
        self.place = 0

    def train(self, step: int) -> float:
        x_q, x_k = (view.pixels for view in views(step))
        q = [v / v.norm() for v in self.f_q(x_q)]
        with torch.no_grad():
            for theta_k, theta_q in zip(self.f_k.parameters(), self.f_q.parameters(), strict=True):
                theta_k.copy_(M * theta_k + (1 - M) * theta_q)
            k = [v / v.norm() for v in self.f_k(x_k)]
        losses = []
        for n in range(N):
            positive = (q[n] @ k[n] / TAU).exp()
            negative = sum((q[n] @ old / TAU).exp() for old in self.queue)
            losses.append(-(positive / (positive + negative)).log())
        loss = sum(losses) / N
        for key in k:
            self.queue[self.place] = key
            self.place = (self.place + 1) % len(self.queue)
        loss.backward()
        descend(self.f_q.parameters())
        return float(loss.detach())


def test_several_steps_are_the_official_codes() -> None:
    method = build()
    official = Official(method)
    for step in range(4):  # the queue of three batches wraps
        assert train(method, step) == pytest.approx(official.train(step), rel=1e-9)
    torch.testing.assert_close(method.queue.vectors, torch.stack(official.queue))
    for ours, theirs in zip(
        nn.Sequential(method.backbone, method.projector).parameters(), official.f_q.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    # The official key encoder moves once more, at the start of the next step.
    for ours, theta_k, theta_q in zip(
        method.key_encoder.parameters(), official.f_k.parameters(), official.f_q.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, M * theta_k + (1 - M) * theta_q)


def test_several_steps_are_lightlys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's own
        losses = pytest.importorskip("lightly.loss", reason="lightly is not installed")
        utils = pytest.importorskip("lightly.models.utils", reason="lightly is not installed")
    method = build()
    f_q = copy.deepcopy(nn.Sequential(method.backbone, method.projector))
    f_k = copy.deepcopy(f_q)
    utils.deactivate_requires_grad(f_k)
    criterion = losses.NTXentLoss(temperature=TAU, memory_bank_size=(K, C)).double()
    criterion.memory_bank.bank.copy_(method.queue.vectors)
    for step in range(4):
        utils.update_momentum(f_q, f_k, m=M)
        x_q, x_k = (view.pixels for view in views(step))
        loss = criterion(f_q(x_q), f_k(x_k))
        loss.backward()
        descend(f_q.parameters())
        assert train(method, step) == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(method.queue.vectors, criterion.memory_bank.bank)


def test_the_head_is_lightlys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's own
        heads = pytest.importorskip("lightly.models.modules.heads", reason="lightly is not installed")
    method = build()
    theirs = heads.MoCoProjectionHead(method.backbone.dim, 32, C).double()
    assert [p.shape for p in theirs.parameters()] == [p.shape for p in method.projector.parameters()]
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), method.projector.state_dict().values(), strict=True))
    )
    h = torch.randn(4, method.backbone.dim, dtype=torch.float64)
    torch.testing.assert_close(method.projector(h), theirs(h))


# --- the momentum encoder ---


def test_the_key_encoder_starts_as_a_copy_of_the_encoder_and_its_head() -> None:
    method = build()
    ours = dict(nn.Sequential(method.backbone, method.projector).named_parameters())
    keys = dict(method.key_encoder.network.named_parameters())
    assert ours.keys() == keys.keys()
    assert any(name.startswith("1.") for name in keys)
    for name, p in keys.items():
        assert torch.equal(p, ours[name])
        assert p.data_ptr() != ours[name].data_ptr()
        assert not p.requires_grad


def test_no_gradient_reaches_keys_or_queue() -> None:
    method = build()
    method.step(views(), clock()).loss.backward()
    assert all(p.grad is None for p in method.key_encoder.parameters())
    assert not method.queue.vectors.requires_grad
    assert all(p.grad is not None for p in method.projector.parameters())


def test_the_key_encoder_runs_in_train_mode_with_statistics_of_its_own() -> None:
    method = build()
    norms = [m for m in method.key_encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    method.step(views(), clock())
    assert norms
    assert all(norm.training and norm.num_batches_tracked == 1 for norm in norms)
    assert not any(torch.equal(old, norm.running_mean) for old, norm in zip(before, norms, strict=True))


# --- the queue ---


def test_logits_are_against_the_queue_as_it_was() -> None:
    # With one batch as the queue, keys that were already in it would be positives and negatives at once.
    method = build(queue=N)
    q, k = (
        nn.functional.normalize(copy.deepcopy(net)(view.pixels), dim=1).detach()
        for net, view in zip(
            (nn.Sequential(method.backbone, method.projector), method.key_encoder), views(), strict=True
        )
    )
    before = method.queue.vectors.clone()
    loss = method.step(views(), clock()).loss
    positive, negative = ((q * k).sum(1) / TAU).exp(), (q @ before.T / TAU).exp().sum(1)
    torch.testing.assert_close(loss.detach(), -(positive / (positive + negative)).log().mean())
    assert torch.equal(method.queue.vectors, before)
    method.after_update(clock())
    torch.testing.assert_close(method.queue.vectors, k)


def test_a_batch_in_two_parts_moves_queue_and_momentum_once() -> None:
    method = build()
    loss = sum(
        method.step([view[rows] for view in views()], clock()).loss for rows in (slice(4), slice(4, 8))
    )
    loss.backward()  # nothing that autograd needs was overwritten
    start, online = method.key_encoder.network[1][0].weight.clone(), method.projector[0].weight
    with torch.no_grad():
        online.add_(1.0)
    assert method.queue._seen == 0
    method.after_update(clock())
    assert method.queue._seen == N
    torch.testing.assert_close(method.key_encoder.network[1][0].weight, M * start + (1 - M) * online)


def test_keys_in_the_queue_have_unit_length_also_under_autocast() -> None:
    method = small_method("moco").train()
    pair = [dataclasses.replace(view, pixels=view.pixels.float()) for view in noise_views(16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method.step(pair, clock())
    method.after_update(clock())
    torch.testing.assert_close(method.queue.vectors.norm(dim=1), torch.ones(16))


def test_the_queue_is_saved_and_restored_where_it_stood() -> None:
    method, other = build(), build(seed=1)
    for step in range(2):
        train(method, step)
    other.load_state_dict(method.state_dict())
    for step in range(2, 5):  # over the end of the ring
        assert train(other, step) == train(method, step)
    assert torch.equal(other.queue.vectors, method.queue.vectors)


def test_a_queue_that_the_batch_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="set the queue to 16 or 32"):
        build().check_batch(16, 1000)


def test_a_queue_of_more_than_a_quarter_of_the_images_is_warned_of() -> None:
    assert build().check_batch(8, 4 * K) == []
    (warning,) = build().check_batch(8, 4 * K - 1)
    assert "a quarter of the 95 images" in warning
    assert warning.endswith("set methods.moco.queue to 16")
    (warning,) = build().check_batch(8, 30)
    assert warning.endswith("train on more images, or lower pretrain.batch_size and methods.moco.queue")


# --- versions ---


def test_defaults_are_the_papers_of_each_version() -> None:
    for values, expected in (({}, (0.2, 2048, "cosine")), ({"version": 1}, (0.07, 0, "steps"))):
        for config in (methods.configure("moco", values), methods.find("moco").Config(**values)):
            assert (config.temperature, config.projector_hidden, config.optimizer.schedule) == expected
            assert (config.queue, config.momentum, config.projector_out) == (65536, 0.999, 128)
            sgd = config.optimizer
            assert (sgd.name, sgd.peak(256), sgd.weight_decay, sgd.momentum) == ("sgd", 0.03, 1e-4, 0.9)


def test_given_values_win_over_a_versions() -> None:
    given = {"version": 1, "temperature": 0.1, "projector_hidden": 8, "optimizer": {"lr": 0.1}}
    config = methods.configure("moco", given)
    assert (config.temperature, config.projector_hidden) == (0.1, 8)
    assert (config.optimizer.lr, config.optimizer.schedule, config.optimizer.name) == (0.1, "steps", "sgd")
    cosine = methods.configure("moco", {"version": 1, "optimizer": {"schedule": "cosine"}})
    assert (cosine.optimizer.schedule, cosine.temperature) == ("cosine", 0.07)
    adamw = OptimizerConfig(name="adamw")
    config = methods.find("moco").Config(version=1, temperature=0.2, optimizer=adamw)
    assert (config.temperature, config.optimizer) == (0.2, adamw)


def test_rates_fall_as_in_the_official_scripts() -> None:
    steps, cosine = (methods.configure("moco", {"version": v}).optimizer for v in (1, 2))
    assert [lr_factor(steps, epoch, 200) for epoch in (0, 119.9, 120, 159.9, 160, 200)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [lr_factor(cosine, epoch, 200) for epoch in (0, 100, 200)] == pytest.approx([1, 0.5, 0])


def test_heads_are_linear_in_version_1_and_have_no_batch_norm_in_version_2() -> None:
    backbone = networks.backbone("small_resnet", image_size=16, width=8, stages=3)
    first = methods.build("moco", backbone, {"version": 1, "queue": 16})
    assert [type(layer) for layer in first.projector] == [nn.Linear]
    assert first.projector[0].weight.shape == (128, backbone.dim)
    second = methods.build("moco", backbone, {"queue": 16})
    assert [type(layer) for layer in second.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert second.projector[0].weight.shape == (2048, backbone.dim)
    assert all(
        layer.bias is not None for layer in (*first.projector, second.projector[0], second.projector[2])
    )


def test_views_are_the_versions() -> None:
    (second,) = methods.recipe("moco", 224).views
    assert (second.count, second.blur, second.grey, second.jitter.hue) == (2, 0.5, 0.2, 0.1)
    (first,) = methods.recipe("moco", 224, config={"version": 1}).views
    assert (first.count, first.blur, first.jitter.hue, first.jitter.probability) == (2, 0.0, 0.4, 1.0)
    assert first.order[:3] == ("crop", "grey", "jitter")


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_resnets_cnns_and_vits(name: str) -> None:
    check_it_trains("moco", name)


# --- what is watched ---


def test_numbers_tell_collapse_from_learning() -> None:
    method = build()
    pair = views()
    same = [pair[0], pair[0]]  # query and key encoder are still equal
    assert method.step(same, clock()).numbers == {
        "accuracy": torch.tensor(1.0),
        "positive_similarity": pytest.approx(1),
    }
    with torch.no_grad():
        for head in (method.projector, method.key_encoder.network[1]):
            head[-1].weight.zero_()
    method.step(pair, clock())
    for _ in range(K // N):
        method.step(pair, clock())
        method.after_update(clock())
    numbers = method.step(pair, clock()).numbers
    assert (numbers["accuracy"], numbers["positive_similarity"]) == (0, pytest.approx(1))


# --- batch norm over several processes; what two of them do, test_two_processes.py tests ---


def test_batch_norm_is_a_ranks_own_when_shuffled_else_synchronised() -> None:
    ours = distributed.BatchNorm2d
    for shuffle in (True, False):
        method = build(shuffle=shuffle)
        for network in (method.backbone, method.key_encoder):
            norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
            assert norms
            assert all(isinstance(norm, ours) != shuffle for norm in norms)


def test_in_one_process_shuffling_changes_nothing() -> None:
    one, other = build(shuffle=True), build(shuffle=False)
    assert train(one, 0) == train(other, 0)
    assert torch.equal(one.queue.vectors, other.queue.vectors)
