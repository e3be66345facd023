"""k-NN classification on frozen features: Wu et al. 2018, Sec. 3.4, see `sslpipe.measures.knn`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from sslpipe.core.device import take
from sslpipe.evals.base import neighbours, tables, trust
from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.knn import Config
from sslpipe.measures.knn import HELD_BACK, check_bank, choose, hits, nearest, vote


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """k-NN accuracy of each kind of features; the details are classes [M] by prefix (see `features.KINDS`)."""
    train, test = inputs.labelled_features()
    outcome = scores(train, test, config)
    own = trust.without_duplicates(inputs.manifest, test, outcome.details)
    return replace(outcome, metrics={**outcome.metrics, **own})


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """Confusions, and the nearest training images of some test images."""
    train, test = inputs.labelled_features()
    count = min(config.queries, len(test.features))  # evenly over the split
    queries = torch.linspace(0, len(test.features) - 1, count).long().unique()
    return {
        "confusion.csv": tables.confusion(test.label, outcome.details[""], inputs.manifest.classes),
        "neighbours.json": json.dumps(neighbours.sheet(train, test, queries, shown=8), indent=2),
    }


def scores(train: Features, test: Features, settings: Config) -> Outcome:
    """k-NN accuracy on features of labelled images, without a look at how they were split."""
    check_bank(train.label)
    device, classes = take(settings.device), int(train.label.max()) + 1
    found, predicted, used = {}, {}, {}
    for prefix, kind in KINDS:
        bank, queries = getattr(train, kind), getattr(test, kind)
        k, temperature = choose(bank, train.label, settings.grid(), device)
        k = min(k, len(bank))
        similarity, index = nearest(bank, queries, k, device=device)
        votes = vote(similarity, train.label[index], classes, temperature)
        found[prefix], predicted[prefix] = hits(votes, test.label), votes.argmax(dim=1)
        used[kind] = {"k": k, "temperature": temperature}
    metrics: dict[str, Any] = {f"{prefix}top1": score["top1"] for prefix, score in found.items()}
    metrics["top5"] = found[""]["top5"]
    protocol: dict[str, Any] = used["features"]
    chosen_on = "nothing: k and temperature are fixed beforehand"
    if len(settings.grid()) > 1:
        protocol = {**used, "tried": [list(pair) for pair in settings.grid()]}
        chosen_on = f"one in {HELD_BACK} training images, held back"
    protocol = {
        **protocol,
        "similarity": "cosine",
        "train_images": len(train.label),
        "test_images": len(test.label),
        "chosen_on": chosen_on,
    }
    return Outcome(metrics=metrics, protocol=protocol, details=predicted)
