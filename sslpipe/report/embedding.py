"""Features laid out in the plane, so that neighbours there are neighbours in feature space."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def layout(features: np.ndarray, *, seed: int) -> np.ndarray | None:
    """Place each feature vector, [N, D] of any float type, in the plane by t-SNE on the cosine geometry that k-NN uses.

    Returns:
        float64 [N, 2], centred, with 98 % of the rows within the unit circle; or None where there is nothing
        to lay out: under five rows, values that are not finite, or all rows the same (a collapsed encoder).
    """
    x = np.asarray(features, dtype=np.float64)
    if len(x) < 5 or not np.isfinite(x).all():
        return None
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x = x - x.mean(axis=0)
    if np.sqrt((x**2).sum(axis=1).mean()) < 1e-4:
        return None
    # Principal components first: t-SNE's cost is in the distances, and the rest of D is mostly noise.
    left, scale, _ = np.linalg.svd(x, full_matrices=False)
    points = _tsne((left * scale)[:, :50], seed)
    points = points - (points.max(axis=0) + points.min(axis=0)) / 2
    return points / max(np.quantile(np.linalg.norm(points, axis=1), 0.98), 1e-12)


def layouts(features: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray | None]:
    """`layout` of several feature matrices, side by side."""
    with ThreadPoolExecutor(max_workers=max(1, len(features))) as pool:
        running = {name: pool.submit(layout, matrix, seed=seed) for name, matrix in features.items()}
        return {name: future.result() for name, future in running.items()}


def align(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Rotate or mirror a layout, [N, 2], so that it lies as near as it can to another of the same rows.

    The axes of a t-SNE layout mean nothing; turned alike, two layouts can be compared by eye.
    """
    left, _, right = np.linalg.svd(points.T @ onto)
    return points @ (left @ right)


def _tsne(components: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    count = len(components)
    first = components[:, :2]
    if first.shape[1] < 2:
        first = np.pad(first, ((0, 0), (0, 1)))
    # scikit-learn's own "pca" start, here without a second decomposition.
    start = first / max(first[:, 0].std(), 1e-12) * 1e-4
    model = TSNE(
        n_components=2,
        perplexity=min(30.0, (count - 1) / 3),
        init=start.astype(np.float32),
        max_iter=500,
        random_state=seed,
    )
    # One thread: OpenMP's threads wait for each other thousands of times here, which on a busy machine takes
    # minutes, and a result that depended on their number would not be the run's alone.
    with threadpool_limits(1, user_api="openmp"):
        return np.asarray(model.fit_transform(components.astype(np.float32)), dtype=np.float64)
