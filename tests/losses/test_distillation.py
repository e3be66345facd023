import math

import pytest
import torch

from sslpipe.losses import negative_cosine


def test_is_the_negative_mean_cosine() -> None:
    p, z = torch.randn(2, 6, 4, dtype=torch.float64)
    cosines = [
        sum(float(a * b) for a, b in zip(u, v, strict=True))
        / math.sqrt(sum(float(a) ** 2 for a in u) * sum(float(b) ** 2 for b in v))
        for u, v in zip(p, z, strict=True)
    ]
    assert negative_cosine(p, z).item() == pytest.approx(-sum(cosines) / 6, 1e-12)


def test_byols_squared_distance_is_two_plus_twice_this() -> None:
    p, z = torch.nn.functional.normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=2)
    distance = (p - z).square().sum(1).mean()
    torch.testing.assert_close(2 + 2 * negative_cosine(p, z), distance)


def test_only_the_prediction_is_differentiated() -> None:
    p, z = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    negative_cosine(p, z).backward()
    assert z.grad is None
    assert p.grad is not None
    assert p.grad.abs().sum() > 0


def test_gradient_is_orthogonal_to_the_prediction() -> None:
    # A cosine does not change with the length of p.
    p, z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randn(6, 4, dtype=torch.float64)
    negative_cosine(p, z).backward()
    assert p.grad is not None
    torch.testing.assert_close((p.grad * p).sum(1), torch.zeros(6, dtype=torch.float64))


def test_autocast_changes_nothing() -> None:
    p, z = torch.randn(2, 6, 4)
    expected = negative_cosine(p, z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(negative_cosine(p, z), expected)
