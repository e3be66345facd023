"""What every method must do, found by itself for each file in sslpipe/methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import SIZE, small_engine, small_method

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.core.checkpoint import from_bytes, to_bytes
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Clock, Method
from sslpipe.training.core import optim


def clock(step: int = 0, total: int = 100) -> Clock:
    return Clock(step, 0, step / total, torch.Generator().manual_seed(step))


def train(method: Method, engine: Any, reader: Any, steps: int, first: int = 0, optimizer: Any = None) -> Any:
    config = OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0)
    optimizer = optimizer or optim.build(method.parameter_groups(), config, 16)
    method.train()
    loader = Loader(reader, batch_size=16, seed=0)
    losses = []
    for step in range(first, first + steps):
        torch.manual_seed(step)
        epoch, place = divmod(step, loader.steps)
        batch = next(iter(loader.epoch(epoch, start=place)))
        outcome = method.step(engine(batch, epoch), clock(step, total=first + steps))
        optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        method.before_update(clock(step))
        optimizer.step()
        method.after_update(clock(step, total=100))
        losses.append(outcome.loss.item())
    return losses, optimizer


def test_the_class_says_what_it_is(name: str) -> None:
    method = methods.find(name)
    assert method.__doc__
    assert "arXiv" in method.paper
    assert issubclass(method.Config, MethodConfig)
    method.Config()  # the paper's settings are all defaults


def test_the_loss_is_a_finite_scalar(name: str, toy_reader: Any) -> None:
    method = small_method(name).train()
    outcome = method.step(small_engine(name)(toy_reader.gather(range(16)), 0), clock())
    assert outcome.loss.shape == ()
    assert torch.isfinite(outcome.loss)
    assert all(torch.isfinite(torch.as_tensor(number)).all() for number in outcome.numbers.values())


def test_gradients_reach_all_that_is_optimised_and_nothing_else(name: str, toy_reader: Any) -> None:
    method = small_method(name).train()
    method.step(small_engine(name)(toy_reader.gather(range(16)), 0), clock()).loss.backward()
    optimised = {id(p) for group in method.parameter_groups() for p in group.parameters}
    for key, parameter in method.named_parameters():
        if id(parameter) in optimised:
            assert parameter.grad is not None, f"{key} gets no gradient"
            assert parameter.grad.abs().sum() > 0 or key.endswith("bias"), f"{key} gets a zero gradient"
        else:
            assert parameter.grad is None, f"{key} should get no gradient"


def test_every_trainable_parameter_is_in_exactly_one_group(name: str) -> None:
    method = small_method(name)
    grouped = [id(p) for group in method.parameter_groups() for p in group.parameters]
    trainable = [id(p) for p in method.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)


def test_norms_and_biases_take_no_weight_decay(name: str) -> None:
    method = small_method(name)
    for group in method.parameter_groups():
        if group.decay:
            assert all(parameter.ndim > 1 for parameter in group.parameters)


def test_it_learns_one_batch_by_heart(name: str, toy_reader: Any) -> None:
    """Always the same views: whatever the numbers are rounded to, the loss falls by a quarter at least."""
    method, views = small_method(name).train(), small_engine(name)(toy_reader.gather(range(16)), 0)
    optimizer = optim.build(
        method.parameter_groups(), OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0), 16
    )
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        loss = method.step(views, clock(step, total=40)).loss
        loss.backward()
        method.before_update(clock(step, total=40))
        optimizer.step()
        method.after_update(clock(step, total=40))
        losses.append(loss.item())
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    assert last < first - 0.1 * abs(first), (first, last)


def test_saved_and_restored_it_continues_bit_for_bit(name: str, toy_reader: Any) -> None:
    whole = small_method(name)
    train(whole, small_engine(name), toy_reader, 6)

    half = small_method(name)
    _, optimizer = train(half, small_engine(name), toy_reader, 3)
    saved = from_bytes(to_bytes({"method": half.state_dict(), "optimizer": optimizer.state_dict()}))
    again = small_method(name, seed=1)  # other weights, to be replaced
    again.load_state_dict(saved["method"])
    config = OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0)
    restored = optim.build(again.parameter_groups(), config, 16)
    optim.restore(restored, saved["optimizer"])
    train(again, small_engine(name), toy_reader, 3, first=3, optimizer=restored)

    for (key, expected), actual in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), key


def test_it_runs_under_bf16_autocast(name: str, toy_reader: Any) -> None:
    method = small_method(name).train()
    views = small_engine(name)(toy_reader.gather(range(16)), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.step(views, clock()).loss
    assert loss.dtype == torch.float32
    loss.backward()
    exact = small_method(name).train().step(views, clock()).loss
    torch.testing.assert_close(loss, exact, rtol=0.1, atol=0.05)


def test_pictures_are_rgb_bytes(name: str, toy_reader: Any) -> None:
    views = small_engine(name)(toy_reader.gather(range(4)), 0)
    for title, picture in small_method(name).eval().pictures(views):
        assert title.isidentifier()
        assert picture.dtype == torch.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3


def test_the_encoder_is_a_backbone_that_gives_features(name: str) -> None:
    encoder = small_method(name).eval().encoder
    assert isinstance(encoder, networks.Backbone)
    assert encoder(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, encoder.dim)


def test_a_backbone_it_cannot_train_is_refused_by_name(name: str) -> None:
    refused = {"resnet": "small_resnet", "vit": "small_vit"}
    for kind, backbone in refused.items():
        if kind not in methods.find(name).takes:
            with pytest.raises(UserError, match=backbone):
                methods.build(name, networks.backbone(backbone, image_size=SIZE))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="simclr"):
        methods.build("simsalabim", networks.backbone("small_resnet", image_size=SIZE))
