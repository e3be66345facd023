from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sslpipe.measures.rank import effective_rank, rank_of, spread


def features(n: int = 12, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def entropy_rank(values: np.ndarray) -> float:
    total, entropy = sum(values), 0.0
    for value in values:
        p = value / total + 1e-7
        entropy -= p * math.log(p)
    return math.exp(entropy)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_features_of_rank_r_have_a_rankme_of_r(rank: int) -> None:
    columns = torch.linalg.qr(torch.randn(64, rank, generator=torch.Generator().manual_seed(0))).Q
    rows = torch.linalg.qr(torch.randn(16, rank, generator=torch.Generator().manual_seed(1))).Q
    assert effective_rank(columns @ rows.T).item() == pytest.approx(rank, abs=1e-3)


def test_rankme_is_its_formula() -> None:
    x = features(20, 6)
    sigma = np.sqrt(np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy()))
    assert effective_rank(x).item() == pytest.approx(entropy_rank(sigma), rel=1e-9)


def test_a_spectrum_of_equal_values_counts_them() -> None:
    assert rank_of(torch.full((9,), 0.2, dtype=torch.float64)).item() == pytest.approx(9, rel=1e-4)
    assert rank_of(torch.zeros(5, dtype=torch.float64)).item() == pytest.approx(1, abs=1e-4)


def test_spread_is_1_for_even_directions_and_0_for_one() -> None:
    corners = torch.cat([torch.eye(64), -torch.eye(64)]).repeat(200, 1)
    assert spread(3 * corners).item() == pytest.approx(1, abs=1e-4)
    assert spread(torch.ones(9, 5)).item() == pytest.approx(0, abs=1e-6)
