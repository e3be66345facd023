"""k-nearest-neighbour classification on frozen features.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, Sec. 3.4: cosine
similarity, each of the k nearest votes for its class with weight exp(similarity / T).
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from sslpipe import config
from sslpipe.errors import UserError
from sslpipe.evals.features import KINDS, Features

CHUNK = 1024  # test images compared at a time


class Config(config.Config):
    """Settings of the section `knn`."""

    enabled: bool = True
    k: int = Field(20, ge=1)
    temperature: float = Field(0.07, gt=0)
    queries: int = Field(8, ge=0, description="test images whose nearest neighbours the report shows")


def nearest(train_features: Tensor, test_features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most similar training images of each test image, exactly.

    Args:
        train_features: [N, D].
        test_features: [M, D].
        k: at most N.

    Returns:
        cosine similarities [M, k], falling, and int64 places in the training set [M, k].
    """
    bank = normalize(train_features.float(), dim=1)  # [N, D]
    found = [
        (normalize(chunk.float(), dim=1) @ bank.T).topk(k, dim=1)  # [m, N] → [m, k]
        for chunk in test_features.split(CHUNK)
    ]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Votes for each class, [M, C], of neighbours' similarities and labels, both [M, k]."""
    # exp(s / T) up to a factor common to all votes of an image, so that a small T cannot overflow.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()  # [M, k]
    votes = weights.new_zeros(len(similarity), classes)
    return votes.scatter_add_(1, labels, weights)


def predict(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, *, k: int, temperature: float
) -> Tensor:
    """Votes for each class, [M, C]; C is counted in the training labels, k is cut to the training set's size."""
    if len(train_features) == 0 or bool((train_labels < 0).any()):
        raise UserError("k-NN needs at least one training image, and a label of 0 or more for each")
    similarity, index = nearest(train_features, test_features, min(k, len(train_features)))
    return vote(similarity, train_labels[index], int(train_labels.max()) + 1, temperature)


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int,
    temperature: float,
) -> dict[str, float]:
    """k-NN accuracy.

    Args:
        train_features: [N, D], the bank; normalised inside.
        train_labels: int64 [N], 0 … C−1.
        test_features: [M, D], not in the bank; normalised inside.
        test_labels: int64 [M].
        k: neighbours that vote; cut to N.
        temperature: T of the weights exp(similarity / T).

    Returns:
        `top1`, `top5` (with fewer than five classes: of all of them), and the `k` and `temperature` used.

    Raises:
        UserError: the bank is empty or has unlabelled images.
    """
    votes = predict(train_features, train_labels, test_features, k=k, temperature=temperature)
    ranked = votes.topk(min(5, votes.shape[1]), dim=1).indices  # [M, 5]
    hits = ranked == test_labels[:, None]
    return {
        "top1": hits[:, 0].double().mean().item(),
        "top5": hits.any(dim=1).double().mean().item(),
        "k": min(k, len(train_features)),
        "temperature": temperature,
    }


def evaluate(train: Features, test: Features, settings: Config) -> tuple[dict[str, Any], Tensor]:
    """What metrics/knn.json holds, and the encoder's predictions [M]."""
    scores = {}
    for prefix, kind in KINDS:
        bank, queries = getattr(train, kind), getattr(test, kind)
        scores[prefix] = knn(
            bank, train.label, queries, test.label, k=settings.k, temperature=settings.temperature
        )
    metrics: dict[str, Any] = {f"{prefix}top1": score["top1"] for prefix, score in scores.items()}
    metrics["top5"] = scores[""]["top5"]
    metrics["protocol"] = {
        "k": scores[""]["k"],
        "temperature": settings.temperature,
        "similarity": "cosine",
        "train_images": len(train.label),
        "test_images": len(test.label),
        "chosen_on": "nothing: k and temperature are fixed beforehand",
    }
    votes = predict(
        train.features, train.label, test.features, k=settings.k, temperature=settings.temperature
    )
    return metrics, votes.argmax(dim=1)


def neighbour_sheet(train: Features, test: Features, queries: int, shown: int = 8) -> list[dict[str, Any]]:
    """The nearest training images of test images spread evenly over the split, for the report."""
    picked = torch.linspace(0, len(test.features) - 1, min(queries, len(test.features))).long().unique()
    similarity, index = nearest(train.features, test.features[picked], min(shown, len(train.features)))
    return [
        {"query": int(q), "neighbours": i.tolist(), "similarity": [round(v, 4) for v in s.tolist()]}
        for q, i, s in zip(picked, index, similarity, strict=True)
    ]
