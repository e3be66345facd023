"""Linear probe with all labels and with few: see `sslpipe.measures.probe` for how one is trained."""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.core.device import take
from sslpipe.evals.base import tables, trust
from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.linear import Config
from sslpipe.measures.probe import fit
from sslpipe.measures.subsets import count_of, draw, folds

_ITERATIONS = 1000  # of the logistic regression at most
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)  # C of the logistic regression: the inverse of its penalty


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Accuracy with all labels and with few; the details are classes [M] by prefix (see `features.KINDS`)."""
    train, test = inputs.labelled_features()
    outcome = scores(train, test, config, seed)
    own = trust.without_duplicates(inputs.manifest, test, outcome.details)
    return replace(outcome, metrics={**outcome.metrics, **own})


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """Accuracy by the number of labels, and confusions with all of them."""
    _, test = inputs.labelled_features()
    few = {int(count): scores for count, scores in outcome.metrics["few_labels"].items()}
    counts = {**few, outcome.protocol["train_images"]: outcome.metrics}
    rows = [
        (count, series, f"{scores[f'{prefix}top1']:.4f}", f"{scores.get(f'{prefix}top1_std', 0.0):.4f}")
        for series, prefix in (*tables.SERIES, ("raw_pixel", "raw_pixel_"))
        for count, scores in sorted(counts.items())
    ]
    return {
        "label_efficiency.csv": tables.table(("labels", "series", "top1", "std"), rows),
        "confusion.csv": tables.confusion(test.label, outcome.details[""], inputs.manifest.classes),
    }


def scores(train: Features, test: Features, settings: Config, seed: int) -> Outcome:
    """Accuracy on features of labelled images, without a look at how they were split."""
    classes, device = int(train.label.max()) + 1, take(settings.device)
    metrics: dict[str, Any] = {}
    used: dict[str, dict[str, float]] = {"lr_used": {}, "weight_decay_used": {}}
    predicted: dict[str, Tensor] = {}
    for prefix, kind in KINDS:
        probe = fit(getattr(train, kind), train.label, classes, settings, seed, device)
        predicted[prefix] = probe(getattr(test, kind)).argmax(1)
        metrics[f"{prefix}top1"] = (predicted[prefix] == test.label).double().mean().item()
        used["lr_used"][kind], used["weight_decay_used"][kind] = probe.lr, probe.weight_decay
    if len(settings.weight_decays) == 1:
        del used["weight_decay_used"]
    counts = dict.fromkeys(count_of(wanted, train.label) for wanted in settings.few_labels)
    metrics["few_labels"] = {
        str(count): _few_labels(train, test, count, classes, settings, seed)
        for count in counts
        if classes <= count < len(train.label)
    }
    if settings.logistic:
        metrics["logistic"] = logistic(train, test, settings, seed)
    decay = "" if any(settings.weight_decays) else "no weight decay, "
    protocol = {
        **settings.model_dump(mode="json", exclude={"enabled", "device"}),
        "optimiser": f"SGD, cosine, {decay}standardised features",
        **used,
        **trust.at_edge("linear.lrs", used["lr_used"]["features"], settings.lrs),
        "chosen_on": f"{settings.folds}-fold cross-validation within the labels used; last epoch reported",
        "train_images": len(train.label),
        "test_images": len(test.label),
    }
    return Outcome(metrics=metrics, protocol=protocol, details=predicted)


def _few_labels(
    train: Features, test: Features, count: int, classes: int, settings: Config, seed: int
) -> dict[str, float]:
    """Mean and spread over draws of `count` labels; all kinds of features see the same draws."""
    summary: dict[str, float] = {}
    device = take(settings.device)
    for prefix, kind in KINDS:
        scores = []
        for number in range(settings.draws):
            rows = draw(train.label, count, seed=seed + 1000 * count + number)
            probe = fit(getattr(train, kind)[rows], train.label[rows], classes, settings, seed, device)
            scores.append((probe(getattr(test, kind)).argmax(1) == test.label).double().mean())
        summary[f"{prefix}top1"] = torch.stack(scores).mean().item()
        summary[f"{prefix}top1_std"] = torch.stack(scores).std(correction=0).item()
    return summary


def logistic(train: Features, test: Features, settings: Config, seed: int) -> dict[str, float | bool]:
    """Multinomial logistic regression with an L2 penalty, by scikit-learn: top-1 on test, the C chosen, and whether it
    came to its optimum in `_ITERATIONS`. C is chosen among `STRENGTHS` by the same folds as the probe's rate.

    Raises:
        UserError: scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "linear.logistic needs scikit-learn: run `pip install 'sslpipe[pipeline]'`, or set it to false"
        )
    labels = train.label.numpy()
    fold = folds(train.label, min(settings.folds, len(labels)), seed).numpy()
    found: dict[str, float | bool] = {}
    for prefix, kind in KINDS:
        features = getattr(train, kind)
        mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
        x, queries = (((part - mean) / std).numpy() for part in (features, getattr(test, kind)))
        hits = dict.fromkeys(STRENGTHS, 0.0)
        for strength, held in itertools.product(STRENGTHS, range(int(fold.max()) + 1)):
            kept = fold != held
            model = _logistic(x[kept], labels[kept], strength)
            hits[strength] += (model.predict(x[~kept]) == labels[~kept]).sum()
        best = max(STRENGTHS, key=lambda strength: hits[strength])
        model = _logistic(x, labels, best)
        found[f"{prefix}top1"] = float((model.predict(queries) == test.label.numpy()).mean())
        found[f"{prefix}c"] = best
        found[f"{prefix}converged"] = bool(model.n_iter_.max() < _ITERATIONS)
    return found


def _logistic(x: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the metrics
        return LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(x, labels)
