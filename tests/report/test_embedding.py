from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.datasets import make_blobs
from sklearn.manifold import trustworthiness

from sslpipe.report.embedding import align, layout


def test_neighbours_stay_neighbours() -> None:
    features, labels = make_blobs(120, n_features=16, centers=4, cluster_std=0.5, random_state=0)
    placed = layout(features.astype(np.float16), seed=0)
    assert placed is not None
    assert placed.shape == (120, 2)
    assert trustworthiness(features, placed, n_neighbors=5, metric="cosine") > 0.9
    distance = np.linalg.norm(placed[:, None] - placed[None], axis=2) + 1e9 * np.eye(120)
    assert (labels[distance.argmin(axis=1)] == labels).mean() > 0.98
    assert (np.linalg.norm(placed, axis=1) <= 1.0 + 1e-9).mean() > 0.97


def test_the_same_seed_gives_the_same_layout() -> None:
    features = np.random.default_rng(0).normal(size=(30, 8))
    np.testing.assert_array_equal(layout(features, seed=1), layout(features, seed=1))


@pytest.mark.parametrize("shape", [(5, 1), (6, 2), (8, 300)])
def test_few_rows_and_odd_widths(shape: tuple[int, int]) -> None:
    placed = layout(np.random.default_rng(0).normal(size=shape), seed=0)
    assert placed is not None
    assert np.isfinite(placed).all()


@pytest.mark.parametrize(
    "features", [np.zeros((20, 4)), np.ones((20, 4)), np.full((20, 4), np.nan), np.eye(4)]
)
def test_nothing_to_lay_out(features: np.ndarray) -> None:
    assert layout(features, seed=0) is None


def test_align_is_the_orthogonal_procrustes_rotation() -> None:
    rng = np.random.default_rng(0)
    points, onto = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    np.testing.assert_allclose(
        align(points, onto), points @ orthogonal_procrustes(points, onto)[0], atol=1e-12
    )
    mirrored = points[:, ::-1]
    np.testing.assert_allclose(align(mirrored, points), points, atol=1e-12)
