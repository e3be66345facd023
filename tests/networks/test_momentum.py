import copy
import math

import pytest
import torch
from torch import nn

from sslpipe.networks.momentum import Momentum, cosine_momentum


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_starts_as_a_copy_that_shares_nothing() -> None:
    online = network()
    copied = Momentum(online)
    x = torch.randn(8, 3)
    torch.testing.assert_close(copied(x), online(x))
    online[0].weight.data.zero_()
    assert copied.network[0].weight.any()


def test_carries_no_gradient() -> None:
    copied = Momentum(network())
    assert not copied(torch.randn(8, 3, requires_grad=True)).requires_grad
    assert not any(parameter.requires_grad for parameter in copied.parameters())


def test_update_is_the_running_average() -> None:
    online = network()
    copied = Momentum(online)
    before = copy.deepcopy(dict(copied.network.named_parameters()))
    for parameter in online.parameters():
        parameter.data.normal_()
    copied.update(online, 0.9)
    for name, parameter in copied.network.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * online.get_parameter(name))
        assert not parameter.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_are_exact(momentum: float) -> None:
    online = network()
    copied = Momentum(online)
    start = copied.network[0].weight.clone()
    online[0].weight.data.normal_()
    copied.update(online, momentum)
    assert torch.equal(copied.network[0].weight, start if momentum else online[0].weight)


def test_batch_norm_statistics_are_its_own() -> None:
    online = network()
    copied = Momentum(online)
    copied(torch.randn(16, 3))
    copied.update(online, 0.5)
    assert copied.network[1].num_batches_tracked == 1
    assert online[1].num_batches_tracked == 0


def test_cosine_momentum() -> None:
    assert cosine_momentum(0.99, 0.0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 1.0) == 1.0
    assert cosine_momentum(0.99, 0.25) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 4) + 1) / 2)
