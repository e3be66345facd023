"""The nearest training images of test images, by their places in the splits, for the report."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sslpipe.evals.base.features import Features
from sslpipe.measures.knn import nearest


def sheet(train: Features, test: Features, queries: Tensor, shown: int) -> list[dict[str, Any]]:
    """The nearest training images of test images, by their places in the splits, for the report.

    Args:
        train: the bank.
        test: with the images that ask.
        queries: int64 [m], rows of `test`.
        shown: neighbours of each, at most.
    """
    if not len(queries):
        return []
    similarity, index = nearest(train.features, test.features[queries], min(shown, len(train.features)))
    return [
        {
            "query": int(test.index[query]),
            "neighbours": train.index[places].tolist(),
            "similarity": [round(value, 4) for value in near.tolist()],
        }
        for query, places, near in zip(queries, index, similarity, strict=True)
    ]
