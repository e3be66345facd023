import numpy as np
import pytest
import torch

from sslpipe.losses import sinkhorn, swapped_prediction


def official_sinkhorn(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """SwAV's `distributed_sinkhorn` for one process, in float64 and outside the log domain."""
    q = np.exp(scores / epsilon).T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(axis=1, keepdims=True) / prototypes
        q = q / q.sum(axis=0, keepdims=True) / samples
    return (q * samples).T


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.5, 1), (0.02, 10)])
def test_sinkhorn_is_the_official_one(epsilon: float, iterations: int) -> None:
    scores = torch.rand(12, 5, dtype=torch.float64) * 2 - 1
    codes = sinkhorn(scores, epsilon, iterations)
    np.testing.assert_allclose(codes, official_sinkhorn(scores.numpy(), epsilon, iterations), rtol=1e-9)


def test_rows_sum_to_one_and_prototypes_are_used_equally() -> None:
    scores = torch.rand(64, 8, dtype=torch.float64) * 2 - 1
    codes = sinkhorn(scores, 0.1, 100)
    torch.testing.assert_close(codes.sum(1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 8.0, dtype=torch.float64), rtol=1e-4, atol=0)


def test_small_epsilon_stays_finite_in_float32() -> None:
    scores = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
    codes = sinkhorn(scores, 0.001, 3)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(codes.sum(1), torch.ones(64))


def test_codes_carry_no_gradient() -> None:
    assert not sinkhorn(torch.randn(6, 3, requires_grad=True), 0.05, 3).requires_grad


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.0, 3), (0.05, 0)])
def test_sinkhorn_refuses_what_gives_no_codes(epsilon: float, iterations: int) -> None:
    with pytest.raises(ValueError, match="sinkhorn needs"):
        sinkhorn(torch.zeros(2, 2), epsilon, iterations)


def swapped_by_loops(scores: list[torch.Tensor], codes: list[torch.Tensor], temperature: float) -> float:
    """Equation 2, averaged over pairs and images, one number at a time."""
    pairs, total = 0, 0.0
    for a, code in enumerate(codes):
        for v, score in enumerate(scores):
            if v == a:
                continue
            pairs += 1
            for q, s in zip(code.numpy(), score.numpy(), strict=True):
                p = np.exp(s / temperature) / np.exp(s / temperature).sum()
                total -= float((q * np.log(p)).sum()) / len(code)
    return total / pairs


def test_swapped_prediction_with_multi_crop() -> None:
    scores = [torch.randn(4, 3, dtype=torch.float64) for _ in range(5)]
    codes = [torch.softmax(torch.randn(4, 3, dtype=torch.float64), 1) for _ in range(2)]
    value = swapped_prediction(scores, codes, 0.1).item()
    assert value == pytest.approx(swapped_by_loops(scores, codes, 0.1), 1e-12)


def test_a_view_never_predicts_its_own_codes() -> None:
    scores = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    code = torch.softmax(torch.randn(4, 3), 1)
    swapped_prediction(scores, [code], 0.1).backward()
    assert scores[0].grad is None or not scores[0].grad.any()
    assert scores[1].grad is not None
    assert scores[1].grad.any()


def test_codes_of_swapped_prediction_are_not_differentiated() -> None:
    scores = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    codes = [torch.rand(4, 3, requires_grad=True) for _ in range(2)]
    swapped_prediction(scores, codes, 0.1).backward()
    assert all(code.grad is None for code in codes)


def test_lists_are_widened_too() -> None:
    scores = [torch.randn(4, 3).bfloat16() for _ in range(2)]
    codes = [torch.rand(4, 3) for _ in range(2)]
    expected = swapped_prediction([score.float() for score in scores], codes, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(swapped_prediction(scores, codes, 0.1), expected)
