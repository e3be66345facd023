import math

import pytest
import torch
from torch import Tensor

from sslpipe.losses import batch_info_nce, info_nce, negative_cosine, nt_xent


def unit(v: Tensor) -> Tensor:
    return v / v.norm()


def nt_xent_by_loops(z1: Tensor, z2: Tensor, temperature: float) -> float:
    """SimCLR's equation 1 as it is written, one anchor at a time."""
    z = [unit(v) for v in [*z1, *z2]]
    n = len(z1)
    losses = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        exps = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * n) if k != i]
        losses.append(-math.log(math.exp(float(z[i] @ z[j]) / temperature) / sum(exps)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_nt_xent_is_equation_1(temperature: float) -> None:
    z1, z2 = torch.randn(2, 5, 3, dtype=torch.float64)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(nt_xent_by_loops(z1, z2, temperature), 1e-12)


def test_nt_xent_is_half_of_simclrs_official_sum() -> None:
    # tf2/objective.py, add_contrastive_loss: the two directions' means are added.
    a, b = torch.nn.functional.normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=2)
    t, large = 0.3, 1e9
    masks = torch.eye(6, dtype=torch.float64)
    labels = torch.arange(6)
    logits_aa, logits_bb = a @ a.T / t - masks * large, b @ b.T / t - masks * large
    loss_a = torch.nn.functional.cross_entropy(torch.cat([a @ b.T / t, logits_aa], 1), labels)
    loss_b = torch.nn.functional.cross_entropy(torch.cat([b @ a.T / t, logits_bb], 1), labels)
    assert nt_xent(a, b, t).item() == pytest.approx((loss_a + loss_b).item() / 2, 1e-12)


def test_nt_xent_of_a_single_pair_is_zero() -> None:
    # The only candidate is the positive.
    assert nt_xent(torch.randn(1, 4), torch.randn(1, 4), 0.1).item() == pytest.approx(0, abs=1e-6)


def test_nt_xent_of_identical_rows_is_log_of_the_candidates() -> None:
    z = torch.ones(8, 4, dtype=torch.float64)
    assert nt_xent(z, z, 0.2).item() == pytest.approx(math.log(15), 1e-12)


def test_nt_xent_ignores_length_and_order_of_images() -> None:
    z1, z2 = torch.randn(2, 6, 5, dtype=torch.float64)
    expected = nt_xent(z1, z2, 0.1)
    order = torch.randperm(6)
    torch.testing.assert_close(nt_xent(z1[order] * 7, z2[order] * 0.1, 0.1), expected)
    torch.testing.assert_close(nt_xent(z2, z1, 0.1), expected)


def test_nt_xent_gradient_is_right() -> None:
    z1, z2 = torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: nt_xent(a, b, 0.5), (z1.requires_grad_(), z2.requires_grad_())
    )


def info_nce_by_loops(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> float:
    losses = []
    for q, k in zip(query, key, strict=True):
        positive = math.exp(float(unit(q) @ unit(k)) / temperature)
        negative = sum(math.exp(float(unit(q) @ unit(n)) / temperature) for n in queue)
        losses.append(-math.log(positive / (positive + negative)))
    return sum(losses) / len(losses)


def test_info_nce_is_mocos_equation_1() -> None:
    query, key, queue = (torch.randn(n, 3, dtype=torch.float64) for n in (4, 4, 9))
    value = info_nce(query, key, queue, 0.07).item()
    assert value == pytest.approx(info_nce_by_loops(query, key, queue, 0.07), 1e-12)


def test_info_nce_gives_no_gradient_to_key_or_queue() -> None:
    query, key, queue = (torch.randn(n, 3, requires_grad=True) for n in (4, 4, 9))
    info_nce(query, key, queue, 0.2).backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
    assert key.grad is None
    assert queue.grad is None


def test_the_queue_may_be_overwritten_before_the_backward_pass() -> None:
    # MoCo enqueues in place: autograd must hold no view of the queue.
    query, key, queue = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3), torch.randn(9, 3)
    loss = info_nce(query, key, queue, 0.2)
    queue.zero_()
    loss.backward()
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("rank", [0, 1])
def test_batch_info_nce_is_moco_v3s_with_positives_from_the_ranks_first_row(rank: int) -> None:
    query, keys = torch.randn(5, 3, dtype=torch.float64), torch.randn(10, 3, dtype=torch.float64)
    losses = []
    for n, q in enumerate(query):
        exps = [math.exp(float(unit(q) @ unit(k)) / 0.2) for k in keys]
        losses.append(-math.log(exps[5 * rank + n] / sum(exps)))
    value = batch_info_nce(query, keys, 0.2, first=5 * rank).item()
    assert value == pytest.approx(sum(losses) / len(losses), 1e-12)


def test_batch_info_nce_gives_no_gradient_to_keys() -> None:
    query, keys = torch.randn(4, 3, requires_grad=True), torch.randn(8, 3, requires_grad=True)
    batch_info_nce(query, keys, 0.2, first=4).backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
    assert keys.grad is None


def test_batch_info_nce_is_in_full_precision() -> None:
    query, keys = torch.randn(4, 3).bfloat16(), torch.randn(8, 3).bfloat16()
    expected = batch_info_nce(query.double(), keys.double(), 0.05).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert batch_info_nce(query, keys, 0.05).item() == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    z1, z2 = torch.randn(2, 16, 8).to(dtype)
    loss = nt_xent(z1, z2, 0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(nt_xent_by_loops(z1.double(), z2.double(), 0.05), 1e-5)


def test_autocast_changes_nothing() -> None:
    z1, z2 = torch.randn(2, 16, 8)
    expected = nt_xent(z1, z2, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z1, z2, 0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_the_negative_cosine_is_the_mean_of_negative_cosines() -> None:
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


def test_of_the_cosine_only_the_prediction_is_differentiated() -> None:
    p, z = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    negative_cosine(p, z).backward()
    assert z.grad is None
    assert p.grad is not None
    assert p.grad.abs().sum() > 0


def test_the_cosines_gradient_is_orthogonal_to_the_prediction() -> None:
    # A cosine does not change with the length of p.
    p, z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.randn(6, 4, dtype=torch.float64)
    negative_cosine(p, z).backward()
    assert p.grad is not None
    torch.testing.assert_close((p.grad * p).sum(1), torch.zeros(6, dtype=torch.float64))


def test_autocast_does_not_change_the_cosine() -> None:
    p, z = torch.randn(2, 6, 4)
    expected = negative_cosine(p, z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(negative_cosine(p, z), expected)
