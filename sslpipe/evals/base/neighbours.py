"""The nearest training images of test images, by their indices in the splits, for the report."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sslpipe.evals.base.features import Features
from sslpipe.measures.knn import nearest


def sheet(train: Features, test: Features, queries: Tensor, shown: int) -> list[dict[str, Any]]:
    """For each of the rows `queries`, int64 [m], of `test` at most `shown` nearest images of `train`."""
    if not len(queries):
        return []
    similarity, index = nearest(train.features, test.features[queries], min(shown, len(train.features)))
    return [
        {
            "query": int(test.index[query]),
            "neighbours": train.index[rows].tolist(),
            "similarity": [round(value, 4) for value in near.tolist()],
        }
        for query, rows, near in zip(queries, index, similarity, strict=True)
    ]
