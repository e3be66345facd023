"""Losses, and the spread of features, against lightly's."""

import warnings

import pytest
import torch

from sslpipe.losses import info_nce, negative_cosine, nt_xent, sinkhorn, swapped_prediction
from sslpipe.measures.geometry import spread

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # lightly's own
    loss = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    debug = pytest.importorskip("lightly.utils.debug", reason="lightly is not installed")
    swav = pytest.importorskip("lightly.loss.swav_loss", reason="lightly is not installed")


def test_nt_xent() -> None:
    z1, z2 = torch.randn(2, 16, 8)
    torch.testing.assert_close(nt_xent(z1, z2, 0.2), loss.NTXentLoss(temperature=0.2)(z1, z2))


def test_info_nce() -> None:
    theirs = loss.NTXentLoss(temperature=0.2, memory_bank_size=(32, 8))
    query, key = torch.randn(2, 16, 8)
    theirs(query, key)  # fills the bank with these keys
    queue = theirs.memory_bank.bank.clone()
    queue = queue.T if queue.shape[0] == 8 else queue
    query, key = (torch.randn(16, 8, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(info_nce(query, key, queue, 0.2), theirs(query, key))


def test_negative_cosine() -> None:
    p, z = torch.randn(2, 16, 8)
    torch.testing.assert_close(negative_cosine(p, z), loss.NegativeCosineSimilarity()(p, z))


def test_sinkhorn() -> None:
    scores = torch.nn.functional.normalize(torch.randn(16, 8), dim=1)
    theirs = swav.sinkhorn(scores, iterations=3, epsilon=0.05)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), theirs)


def test_swapped_prediction() -> None:
    scores = [torch.nn.functional.normalize(torch.randn(16, 8), dim=1) for _ in range(4)]
    codes = [sinkhorn(score, 0.05, 3) for score in scores[:2]]
    theirs = loss.SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05, sinkhorn_iterations=3)
    expected = theirs(scores[:2], scores[2:]).squeeze()
    torch.testing.assert_close(swapped_prediction(scores, codes, 0.1), expected)


def test_spread() -> None:
    features = torch.randn(30, 8)
    theirs = debug.std_of_l2_normalized(features) * 8**0.5
    torch.testing.assert_close(spread(features), theirs)
