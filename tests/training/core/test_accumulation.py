"""A batch in parts gives the gradient that it should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import SIZE, small_engine, small_method

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.methods.base.method import Clock, Method
from sslpipe.training.core import accumulation
from sslpipe.training.core.config import Config


def clock() -> Clock:
    return Clock(0, 0, 0.0, torch.Generator().manual_seed(0))


def config(**changes: Any) -> Config:
    return Config(batch_size=16, precision="fp32", **changes)


def without_batch_norm() -> Method:
    """SimCLR on a network in which no image sees another, so that only the loss compares them."""
    torch.manual_seed(0)
    backbone = networks.backbone("small_vit", image_size=SIZE, width=32, depth=2, heads=2)
    method = methods.build("simclr", backbone, {"projector_out": 16})
    method.projector = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
    return method.train()


def gradients(method: Method, config: Config, views: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    method.zero_grad(set_to_none=True)
    outcome = accumulation.backward(method, views, clock(), config)
    return outcome.loss, [p.grad.clone() for p in method.parameters() if p.grad is not None]


@pytest.fixture
def views(toy_reader: Any) -> Any:
    return small_engine("simclr")(toy_reader.gather(range(16)), 0)


def test_one_part_is_the_plain_step(views: Any) -> None:
    method = without_batch_norm()
    _, actual = gradients(method, config(), views)
    method.zero_grad(set_to_none=True)
    method.step(views, clock()).loss.backward()
    for a, p in zip(actual, [p for p in method.parameters() if p.grad is not None], strict=True):
        assert torch.equal(a, p.grad)  # type: ignore[arg-type]


def test_parts_average_the_losses_of_the_parts(views: Any) -> None:
    method = without_batch_norm()
    loss, actual = gradients(method, config(accumulate=4), views)
    method.zero_grad(set_to_none=True)
    expected = torch.stack([
        method.step([view[k : k + 4] for view in views], clock()).loss for k in range(0, 16, 4)
    ]).mean()  # fmt: skip
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for a, p in zip(actual, [p for p in method.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(a, p.grad)


def test_parts_have_fewer_negatives_and_the_gradient_cache_has_them_all(views: Any) -> None:
    method = without_batch_norm()
    whole, expected = gradients(method, config(), views)
    parts, other = gradients(method, config(accumulate=4), views)
    cached, actual = gradients(method, config(accumulate=4, gradient_cache=True), views)
    assert parts < whole - 0.5  # log 31 negatives against log 7
    torch.testing.assert_close(cached, whole)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(other, expected, strict=True))


def test_dropout_is_the_same_in_both_passes_of_the_cache(views: Any) -> None:
    method = without_batch_norm()
    seen: list[torch.Tensor] = []
    dropout = torch.nn.Dropout(0.5)
    dropout.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    method.projector.append(dropout)
    gradients(method, config(accumulate=2, gradient_cache=True), views)
    first, second, again_first, again_second = seen
    assert torch.equal(first, again_first)
    assert torch.equal(second, again_second)
    assert not torch.equal(first == 0, second == 0)


def test_the_first_pass_of_the_cache_leaves_no_trace_in_running_statistics(views: Any) -> None:
    cached, plain = small_method("simclr").train(), small_method("simclr").train()
    gradients(cached, config(accumulate=4, gradient_cache=True), views)
    gradients(plain, config(accumulate=4), views)
    for (name, a), b in zip(cached.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("parts", [3, 16])
def test_parts_that_are_not_equal_or_too_small_are_refused(parts: int) -> None:
    with pytest.raises(UserError, match="accumulate"):
        accumulation.check(without_batch_norm(), config(accumulate=parts))


def test_a_cache_without_a_loss_over_the_batch_is_refused() -> None:
    with pytest.raises(UserError, match="MAE"):
        accumulation.check(small_method("mae"), config(accumulate=2, gradient_cache=True))


def test_a_cache_takes_embeddings_that_carry_no_gradient(toy_reader: Any) -> None:
    method = small_method("mocov3").train()
    views = small_engine("mocov3")(toy_reader.gather(range(16)), 0)
    whole, expected = gradients(method, config(gradient_cache=True), views)
    plain, others = gradients(method, config(), views)
    torch.testing.assert_close(whole, plain)
    assert len(expected) == len(others) > 0
    for a, b in zip(expected, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
