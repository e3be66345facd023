"""k-NN classification on frozen features: Wu et al. 2018, Sec. 3.4, see `sslpipe.measures.knn`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslpipe.core.device import resolve
from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.knn import Config
from sslpipe.measures.knn import HELD_BACK, check_bank, choose, hits, nearest, vote


def evaluate(train: Features, test: Features, settings: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What metrics/knn.json holds, and predictions [M] by prefix (see `features.KINDS`)."""
    check_bank(train.label)
    device, classes = resolve(settings.device), int(train.label.max()) + 1
    scores, predicted, used = {}, {}, {}
    for prefix, kind in KINDS:
        bank, queries = getattr(train, kind), getattr(test, kind)
        k, temperature = choose(bank, train.label, settings.grid(), device)
        k = min(k, len(bank))
        similarity, index = nearest(bank, queries, k, device=device)
        votes = vote(similarity, train.label[index], classes, temperature)
        scores[prefix], predicted[prefix] = hits(votes, test.label), votes.argmax(dim=1)
        used[kind] = {"k": k, "temperature": temperature}
    metrics: dict[str, Any] = {f"{prefix}top1": score["top1"] for prefix, score in scores.items()}
    metrics["top5"] = scores[""]["top5"]
    chosen = len(settings.grid()) > 1
    metrics["protocol"] = {
        **(used if chosen else used["features"]),
        **({"tried": [list(pair) for pair in settings.grid()]} if chosen else {}),
        "similarity": "cosine",
        "train_images": len(train.label),
        "test_images": len(test.label),
        "chosen_on": f"one in {HELD_BACK} training images, held back"
        if chosen
        else "nothing: k and temperature are fixed beforehand",
    }
    return metrics, predicted


def neighbour_sheet(train: Features, test: Features, queries: int, shown: int = 8) -> list[dict[str, Any]]:
    """`sheet` of test images spread evenly over the split."""
    picked = torch.linspace(0, len(test.features) - 1, min(queries, len(test.features))).long().unique()
    return sheet(train, test, picked, shown)


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
