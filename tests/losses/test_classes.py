import math

import pytest
import torch

from sslpipe.losses import label_cross_entropy, rebalanced_cross_entropy


def test_labels_in_plain_loops() -> None:
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total -= math.log(math.exp(row[label]) / sum(math.exp(score) for score in row)) / 5
    assert label_cross_entropy(logits, labels).item() == pytest.approx(total, rel=1e-12)


def test_soft_weighted_targets_in_plain_loops() -> None:
    n, q, k, h, w = 2, 6, 3, 2, 3
    logits = torch.randn(n, q, h, w, dtype=torch.float64)
    classes = (
        torch.stack([torch.randperm(q)[:k] for _ in range(n * h * w)]).view(n, h, w, k).permute(0, 3, 1, 2)
    )
    shares = torch.rand(n, k, h, w, dtype=torch.float64).softmax(1)
    weight = torch.rand(n, h, w, dtype=torch.float64)
    total = 0.0
    for i in range(n):
        for y in range(h):
            for x in range(w):
                scores = logits[i, :, y, x].tolist()
                p = [math.exp(score) / sum(math.exp(other) for other in scores) for score in scores]
                for j in range(k):
                    cell = float(weight[i, y, x] * shares[i, j, y, x])
                    total -= cell * math.log(p[int(classes[i, j, y, x])]) / (n * h * w)
    loss = rebalanced_cross_entropy(logits, classes, shares, weight)
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_one_colour_of_weight_one_is_ordinary_cross_entropy() -> None:
    logits, classes = torch.randn(2, 6, 3, 3), torch.randint(6, (2, 1, 3, 3))
    loss = rebalanced_cross_entropy(logits, classes, torch.ones(2, 1, 3, 3), torch.ones(2, 3, 3))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, classes[:, 0]))


def test_cells_of_weight_0_get_no_gradient() -> None:
    logits = torch.randn(1, 6, 1, 2, requires_grad=True)
    weight = torch.tensor([[[0.0, 1.0]]])
    rebalanced_cross_entropy(
        logits, torch.zeros(1, 1, 1, 2).long(), torch.ones(1, 1, 1, 2), weight
    ).backward()
    assert logits.grad is not None
    assert not logits.grad[..., 0].any()
    assert logits.grad[..., 1].any()


def test_half_precision_is_widened() -> None:
    logits, labels = torch.randn(4, 3).bfloat16(), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = label_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.float(), labels))
