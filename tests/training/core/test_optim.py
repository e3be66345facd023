from __future__ import annotations

import math

import pytest
import torch

from sslpipe.core.checkpoint import from_bytes, to_bytes
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, ParamGroup
from sslpipe.training.core import optim
from sslpipe.training.core.schedules import lr_factor, weight_decay


def clock(progress: float) -> Clock:
    return Clock(0, 0, progress, torch.Generator())


def parameter(*shape: int) -> torch.nn.Parameter:
    torch.manual_seed(0)
    value = torch.nn.Parameter(torch.randn(*shape))
    value.grad = torch.randn(*shape)
    return value


@pytest.mark.parametrize(
    ("rule", "peak"), [("linear", 0.3 * 2), ("sqrt", 0.3 * math.sqrt(512)), ("absolute", 0.3)]
)
def test_rate_rules(rule: str, peak: float) -> None:
    assert OptimizerConfig(lr=0.3, rule=rule).peak(512) == pytest.approx(peak)  # type: ignore[arg-type]


def test_cosine_with_warm_up_agrees_with_timm() -> None:
    from timm.scheduler import CosineLRScheduler

    config = OptimizerConfig(warmup_epochs=5, final_lr=0.0)
    optimizer = torch.optim.SGD([parameter(1)], lr=1.0)
    theirs = CosineLRScheduler(
        optimizer, t_initial=100, warmup_t=5, warmup_lr_init=0.0, warmup_prefix=False, cycle_limit=1
    )
    for epoch in range(5):
        assert lr_factor(config, epoch, 100) == pytest.approx(theirs._get_lr(epoch)[0])
    # After warm-up ours starts its cosine at the peak, as SimCLR, BYOL and MAE's codes do (timm: warmup_prefix).
    prefixed = CosineLRScheduler(
        optimizer, t_initial=95, warmup_t=5, warmup_lr_init=0.0, warmup_prefix=True, cycle_limit=1
    )
    for epoch in range(5, 100):
        assert lr_factor(config, epoch, 100) == pytest.approx(prefixed._get_lr(epoch)[0])


def test_steps_constant_and_final_rate() -> None:
    steps = OptimizerConfig(schedule="steps", milestones=(0.6, 0.8), warmup_epochs=0)
    assert [lr_factor(steps, e, 200) for e in (0, 119, 120, 159, 160)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    assert lr_factor(OptimizerConfig(schedule="constant", warmup_epochs=0), 150, 200) == 1
    assert lr_factor(OptimizerConfig(final_lr=0.1, warmup_epochs=0), 200, 200) == pytest.approx(0.1)


def test_a_warm_up_is_at_most_a_fifth_of_training() -> None:
    assert lr_factor(OptimizerConfig(warmup_epochs=40), 2.0, 10) == 1.0
    assert lr_factor(OptimizerConfig(warmup_epochs=40), 1.0, 10) == pytest.approx(0.5)


def test_weight_decay_follows_a_cosine_only_if_it_has_an_end() -> None:
    config = OptimizerConfig(weight_decay=0.04, weight_decay_end=0.4)
    assert [weight_decay(config, p) for p in (0, 0.5, 1)] == pytest.approx([0.04, 0.22, 0.4])
    assert weight_decay(OptimizerConfig(weight_decay=0.04), 0.7) == 0.04


def test_lars_adapts_weights_also_without_weight_decay_and_never_biases() -> None:
    # timm's LARS skips adaptation for groups with weight decay 0: the weights must adapt all the same.
    weight, bias = parameter(4, 4), parameter(4)
    before = weight.detach().clone(), bias.detach().clone()
    groups = [ParamGroup([weight]), ParamGroup([bias], decay=False, adapt=False)]
    config = OptimizerConfig(name="lars", lr=1.0, rule="absolute", weight_decay=0.0, momentum=0.0)
    optim.build(groups, config, 256).step()
    assert weight.grad is not None
    assert bias.grad is not None
    trust = 0.001 * before[0].norm() / weight.grad.norm()
    torch.testing.assert_close(weight.detach(), before[0] - trust * weight.grad)
    torch.testing.assert_close(bias.detach(), before[1] - bias.grad)


def test_rates_and_decay_of_each_group() -> None:
    groups = [
        ParamGroup([parameter(2, 2)]),
        ParamGroup([parameter(2)], decay=False),
        ParamGroup([parameter(3, 3)], fixed_lr=True),  # SimSiam's predictor
        ParamGroup([parameter(5, 5)], lr_scale=0.1),
    ]
    config = OptimizerConfig(name="sgd", lr=0.05, rule="linear", weight_decay=1e-4, warmup_epochs=0)
    optimizer = optim.build(groups, config, 512)
    optim.set_lrs(optimizer, config, clock(0.5), epoch=50, epochs=100)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.1, 0.005])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4, 0.0, 1e-4, 1e-4]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_a_masked_update_changes_nothing_and_a_plain_one_is_the_same_as_ever(name: str) -> None:
    def trained(*marks: float | None) -> list[torch.Tensor]:
        values = [parameter(3, 4), parameter(5)]
        groups = [ParamGroup([values[0]]), ParamGroup([values[1]], decay=False, adapt=False)]
        config = OptimizerConfig(name=name, lr=0.1, rule="absolute", weight_decay=0.1)  # type: ignore[arg-type]
        optimizer = optim.build(groups, config, 8)
        for mark in marks:
            optim.step(optimizer, None if mark is None else torch.tensor(mark))
        state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
        return [v.detach().clone() for v in [*values, *state]]

    once, twice = trained(None), trained(None, None)
    assert not torch.equal(once[0], twice[0])
    for a, b in ((trained(0.0), once), (trained(0.0, 0.0), twice), (trained(None, 1.0, 1.0), once)):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_restored_state_lies_in_memory_as_its_parameter_does() -> None:
    def stepped(restored: bool) -> torch.Tensor:
        value = torch.nn.Parameter(parameter(4, 3, 3, 3).detach().to(memory_format=torch.channels_last))
        config = OptimizerConfig(lr=0.1, rule="absolute")
        optimizer = optim.build([ParamGroup([value])], config, 8)
        for step in range(3):
            value.grad = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step)).to(
                memory_format=torch.channels_last
            )
            if restored and step == 2:
                optim.restore(optimizer, from_bytes(to_bytes(optimizer.state_dict())))
            optimizer.step()
        return value.detach()

    assert torch.equal(stepped(True), stepped(False))


def test_sgd_takes_parameters_that_are_frozen_at_first_and_is_torchs_else() -> None:
    values, theirs = [parameter(3, 4), parameter(5)], [parameter(3, 4), parameter(5)]
    config = OptimizerConfig(name="sgd", lr=0.1, rule="absolute", weight_decay=0.1, momentum=0.9)
    optimizer = optim.build([ParamGroup([values[0]]), ParamGroup([values[1]])], config, 8)
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=False)
    for step in range(4):
        for own, other in zip(values, theirs, strict=True):
            gradient = torch.randn(own.shape, generator=torch.Generator().manual_seed(step))
            own.grad, other.grad = gradient, gradient.clone()
        if step < 2:  # SwAV's prototypes
            values[1].grad = theirs[1].grad = None
        optimizer.step()
        reference.step()
    for own, other in zip(values, theirs, strict=True):
        torch.testing.assert_close(own, other)


def test_steps_may_be_of_another_factor_as_rotnets_on_cifar() -> None:
    """`LUT_lr` of config/CIFAR10_RotNet_NIN4blocks.py: up to each epoch, the rate."""
    official = [(60, 0.1), (120, 0.02), (160, 0.004), (200, 0.0008)]
    steps = OptimizerConfig(
        lr=0.1, schedule="steps", milestones=(0.3, 0.6, 0.8), step_factor=0.2, warmup_epochs=0
    )
    for epoch in range(200):
        expected = next(rate for end, rate in official if epoch < end)
        assert 0.1 * lr_factor(steps, epoch, 200) == pytest.approx(expected)
