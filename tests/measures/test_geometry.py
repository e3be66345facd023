"""Formulas against plain loops in float64, and features whose numbers are known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from sslpipe.measures import geometry as measures
from sslpipe.measures.geometry import effective_rank, rank_of, spread


def features(n: int = 12, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.sqrt((row**2).sum())


def entropy_rank(values: np.ndarray) -> float:
    total, entropy = sum(values), 0.0
    for value in values:
        p = value / total + 1e-7
        entropy -= p * math.log(p)
    return math.exp(entropy)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment_is_the_mean_distance_of_pairs(alpha: float) -> None:
    x, y = features(), features(seed=1)
    total = 0.0
    for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True):
        total += math.sqrt(((unit(a) - unit(b)) ** 2).sum()) ** alpha
    assert measures.alignment(x, y, alpha) == pytest.approx(total / len(x), rel=1e-9)


def test_alignment_of_identical_views_is_0_and_of_opposite_ones_4() -> None:
    x = features()
    assert measures.alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert measures.alignment(x, -x) == pytest.approx(4)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_uniformity_is_the_double_loop(t: float) -> None:
    x = features(15)
    z, total, pairs = [unit(row) for row in x.double().numpy()], 0.0, 0
    for i in range(len(z)):
        for j in range(len(z)):
            if i != j:
                total, pairs = total + math.exp(-t * ((z[i] - z[j]) ** 2).sum()), pairs + 1
    assert measures.uniformity(x, t) == pytest.approx(math.log(total / pairs), rel=1e-9)


def test_uniformity_in_pieces_is_that_of_torchs_pdist() -> None:
    x = features(1500, 8)
    z = torch.nn.functional.normalize(x.double(), dim=1)
    expected = torch.pdist(z).square().mul(-2).exp().mean().log().item()
    assert measures.uniformity(x) == pytest.approx(expected, rel=1e-9)


def test_uniformity_runs_from_0_for_equal_features_to_that_of_even_ones() -> None:
    assert measures.uniformity(torch.ones(9, 4)) == pytest.approx(0, abs=1e-9)
    even, narrow = features(1000, 256), 0.1 * features(1000, 256) + 1
    assert measures.uniformity(narrow) > -0.1
    assert measures.uniformity(even) == pytest.approx(
        -4 + 8 / 256, abs=0.01
    )  # log E exp(4 cos) of a Gaussian cosine


def lidar_loops(views: np.ndarray, delta: float, unbiased: bool = False) -> float:
    n, q, d = views.shape
    means = [sum(views[i]) / q for i in range(n)]
    middle = sum(means) / n
    between, within = np.zeros((d, d)), np.zeros((d, d))
    of_means, of_views = (n - 1, n * (q - 1)) if unbiased else (n, n * q)
    for i in range(n):
        between += np.outer(means[i] - middle, means[i] - middle) / of_means
        for j in range(q):
            within += np.outer(views[i, j] - means[i], views[i, j] - means[i]) / of_views
    if unbiased:
        between -= within / q
    values, vectors = np.linalg.eigh(within + delta * np.eye(d))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return entropy_rank(np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("delta", [1e-4, 0.5])
def test_lidar_is_its_formula(delta: float, unbiased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(10, 1, 4, generator=generator) + 0.3 * torch.randn(10, 3, 4, generator=generator)
    views[..., 1] *= 5
    expected = lidar_loops(views.double().numpy(), delta, unbiased)
    assert measures.lidar(views, delta, unbiased=unbiased) == pytest.approx(expected, rel=1e-6)


def test_lidar_counts_directions_that_tell_images_apart_and_rankme_all() -> None:
    generator = torch.Generator().manual_seed(0)
    views = 0.01 * torch.randn(400, 8, 12, generator=generator)
    views[..., :3] += torch.randn(400, 1, 3, generator=generator)  # of the image
    views[..., 3:] += torch.randn(400, 8, 9, generator=generator)  # of the view alone
    assert measures.lidar(views) == pytest.approx(3, abs=0.1)
    assert effective_rank(views[:, 0]).item() > 11


def test_unbiased_lidar_does_not_depend_on_the_number_of_views() -> None:
    generator = torch.Generator().manual_seed(0)
    strength = torch.linspace(1, 0, 20) ** 2  # how much each direction says of the image
    views = strength * torch.randn(2000, 1, 20, generator=generator) + torch.randn(
        2000, 32, 20, generator=generator
    )
    few, many = measures.lidar(views[:, :3], unbiased=True), measures.lidar(views, unbiased=True)
    assert few == pytest.approx(many, rel=0.06)
    assert measures.lidar(views[:, :3]) > 1.4 * measures.lidar(views)


def test_lidar_of_collapsed_features_is_1() -> None:
    assert measures.lidar(torch.ones(6, 4, 5)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40)])
def test_the_eigenspectrum_is_that_of_the_covariance(n: int, d: int) -> None:
    x = features(n, d) + 3
    expected = np.sort(np.linalg.eigvalsh(np.cov(x.double().numpy().T)))[::-1][: min(n, d)]
    found = measures.eigenspectrum(x).numpy()
    np.testing.assert_allclose(found, np.clip(expected, 0, None) / expected.sum(), atol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_a_power_law_is_found_whatever_the_first_ranks_are(alpha: float) -> None:
    spectrum = torch.arange(1, 201, dtype=torch.float64) ** -alpha
    spectrum[:3] *= 50
    spectrum[100:] *= 0.01
    found = measures.power_law(spectrum)
    assert found is not None
    assert found == pytest.approx((alpha, 1.0), rel=1e-9)


def test_the_fit_weighs_ranks_by_their_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = (torch.rand(40, generator=generator, dtype=torch.float64) + 0.01).sort(descending=True).values
    ranks = np.arange(4, 41)
    slope, intercept = np.polyfit(np.log(ranks), np.log(spectrum.numpy()[3:]), 1, w=1 / np.sqrt(ranks))
    found = measures.power_law(spectrum)
    assert found is not None
    assert found[0] == pytest.approx(-slope, rel=1e-9)
    y, fitted = np.log(spectrum.numpy()[3:]), slope * np.log(ranks) + intercept
    middle = np.average(y, weights=1 / ranks)
    r2 = 1 - ((y - fitted) ** 2 / ranks).sum() / ((y - middle) ** 2 / ranks).sum()
    assert found[1] == pytest.approx(r2, rel=1e-9)


def test_few_eigenvalues_make_no_law() -> None:
    assert measures.power_law(torch.tensor([0.5, 0.3, 0.2, 0.0])) is None
    assert measures.power_law(torch.zeros(50)) is None
    assert measures.power_law(torch.zeros(0)) is None


def test_purity_is_that_of_scikit_learns_neighbours() -> None:
    train, test = features(60, 4), features(25, 4, seed=1)
    generator = torch.Generator().manual_seed(2)
    labels, expected = (
        torch.randint(3, (60,), generator=generator),
        torch.randint(3, (25,), generator=generator),
    )
    _, near = NearestNeighbors(n_neighbors=7, metric="cosine").fit(train).kneighbors(test)
    share = np.mean([[labels[i] == label for i in row] for row, label in zip(near, expected, strict=True)])
    assert measures.purity(train, labels, test, expected, 7) == pytest.approx(share)


def test_dead_dimensions_are_those_that_never_change() -> None:
    x = features(50, 6)
    x[:, 1], x[:, 4] = 0.0, 7.0
    x[:, 5] *= 0.01  # small, and alive
    assert measures.dead_dimensions(x) == 2
    assert measures.dead_dimensions(torch.full((50, 6), 0.3)) == 6


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
