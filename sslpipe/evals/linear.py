"""Linear probe: a linear classifier on frozen features, with all labels and with few.

SGD with momentum and no weight decay, as in MoCo, SimSiam and MAE's protocols. Features are standardised by the
training set's mean and deviation (MAE's batch norm without affine). Every learning rate is trained at once, on all
folds of a cross-validation and on all labels; the folds choose the rate, and the head trained on all labels with it is
tested once, after its last epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from sslpipe import config
from sslpipe.evals.features import KINDS, Features
from sslpipe.evals.subsets import draw, folds


class Config(config.Config):
    """Settings of the section `linear`."""

    enabled: bool = True
    epochs: int = Field(90, ge=1)
    min_steps: int = Field(
        300, ge=1, description="few labels make few steps an epoch: train at least so many"
    )
    batch_size: int = Field(256, ge=1)
    rates: tuple[float, ...] = Field((0.001, 0.003, 0.01, 0.03, 0.1, 0.3), min_length=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    folds: int = Field(5, ge=2)
    few_labels: tuple[int, ...] = Field((400, 100), description="label counts to repeat the probe with")
    draws: int = Field(5, ge=1, description="random draws of few labels; their mean and spread are reported")


@dataclass(frozen=True)
class Probe:
    """A trained linear classifier: logits = standardised features · weight + bias.

    Attributes:
        weight: [D, C].
        bias: [C].
        mean: [D] of the training features.
        std: [D] of the training features.
        rate: the learning rate that was chosen.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    rate: float

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [M, C] of features [M, D]."""
        return (features - self.mean) / self.std @ self.weight + self.bias


def fit(features: Tensor, labels: Tensor, classes: int, settings: Config, seed: int) -> Probe:
    """Train a probe, its rate chosen by cross-validation within these labels.

    Args:
        features: float32 [N, D].
        labels: int64 [N].
        classes: C.
        settings: the protocol.
        seed: of the folds and of the order of batches.
    """
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    x = (features - mean) / std
    fold = folds(labels, min(settings.folds, len(labels)), seed)
    # Head [f, r] leaves fold f out and learns at rate r; the last row of heads leaves nothing out.
    left_out = [*range(int(fold.max()) + 1), -1]
    weight, bias = _train(x, labels, fold, left_out, classes, settings, seed)
    scores = _held_out_accuracy(x, labels, fold, left_out[:-1], weight, bias)  # [R]
    best = int(scores.argmax())
    return Probe(weight[-1, best], bias[-1, best], mean, std, settings.rates[best])


def _train(
    x: Tensor, labels: Tensor, fold: Tensor, left_out: list[int], classes: int, settings: Config, seed: int
) -> tuple[Tensor, Tensor]:
    """Train F · R heads side by side; weight [F, R, D, C] and bias [F, R, C]."""
    n, d = x.shape
    f, r = len(left_out), len(settings.rates)
    # Heads lie side by side in one matrix, so that a step is two matrix products: [D, F·R·C].
    weight, bias = torch.zeros(d, f * r * classes), torch.zeros(f * r * classes)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rates = torch.tensor(settings.rates)[:, None].expand(f, r, classes).reshape(-1)  # [F·R·C]
    target = one_hot(labels, classes).float()
    used = (fold[:, None] != torch.tensor(left_out)).float()[:, :, None, None]  # [N, F, 1, 1]
    size = min(settings.batch_size, n)
    per_epoch = -(-n // size)
    total = max(settings.epochs * per_epoch, settings.min_steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(total):
        if step % per_epoch == 0:
            batches = torch.randperm(n, generator=generator).split(size)
        rows = batches[step % per_epoch]
        xb, share = x[rows], used[rows]  # [B, D], [B, F, 1, 1]
        share = share / share.sum(0).clamp_min(1)
        logits = torch.addmm(bias, xb, weight).view(-1, f, r, classes)
        gradient = (logits.softmax(-1) - target[rows][:, None, None]) * share  # of the mean cross-entropy
        gradient = gradient.view(len(rows), -1)  # [B, F·R·C]
        factor = 0.5 * (1 + math.cos(math.pi * step / total))
        for parameter, v, g in zip((weight, bias), velocity, (xb.T @ gradient, gradient.sum(0)), strict=True):
            v.mul_(settings.momentum).add_(g)
            parameter.addcmul_(rates, v, value=-factor)
    return weight.view(d, f, r, classes).permute(1, 2, 0, 3), bias.view(f, r, classes)


def _held_out_accuracy(
    x: Tensor, labels: Tensor, fold: Tensor, left_out: list[int], weight: Tensor, bias: Tensor
) -> Tensor:
    """Accuracy of each rate over the samples its heads did not see, [R]; ties go to the lower loss."""
    hits, losses = torch.zeros(weight.shape[1]), torch.zeros(weight.shape[1])
    for row, held in enumerate(left_out):
        here = fold == held
        logits = x[here] @ weight[row] + bias[row][:, None]  # [R, m, C]
        hits += (logits.argmax(-1) == labels[here]).sum(-1)
        losses += torch.stack([cross_entropy(each, labels[here], reduction="sum") for each in logits])
    return hits / len(labels) - 1e-6 * losses / len(labels)


def evaluate(train: Features, test: Features, settings: Config, seed: int) -> dict[str, Any]:
    """What metrics/linear.json holds: top-1 on test of the encoder, random weights and raw pixels."""
    classes = int(train.label.max()) + 1
    metrics: dict[str, Any] = {}
    rates: dict[str, float] = {}
    for prefix, kind in KINDS:
        probe = fit(getattr(train, kind), train.label, classes, settings, seed)
        metrics[f"{prefix}top1"] = _accuracy(probe, getattr(test, kind), test.label)
        rates[kind] = probe.rate
    counts = [count for count in settings.few_labels if classes <= count < len(train.label)]
    metrics["few_labels"] = {
        str(count): _few_labels(train, test, count, classes, settings, seed) for count in counts
    }
    metrics["protocol"] = {
        **settings.model_dump(mode="json", exclude={"enabled"}),
        "optimiser": "SGD, cosine, no weight decay, standardised features",
        "rate_used": rates,
        "chosen_on": f"{settings.folds}-fold cross-validation within the labels used; last epoch reported",
        "train_images": len(train.label),
        "test_images": len(test.label),
    }
    return metrics


def _few_labels(
    train: Features, test: Features, count: int, classes: int, settings: Config, seed: int
) -> dict[str, float]:
    """Mean and spread over draws of `count` labels; all kinds of features see the same draws."""
    summary: dict[str, float] = {}
    for prefix, kind in KINDS:
        scores = []
        for number in range(settings.draws):
            rows = draw(train.label, count, seed=seed + 1000 * count + number)
            probe = fit(getattr(train, kind)[rows], train.label[rows], classes, settings, seed)
            scores.append(_accuracy(probe, getattr(test, kind), test.label))
        result = torch.tensor(scores, dtype=torch.float64)
        summary[f"{prefix}top1"] = result.mean().item()
        summary[f"{prefix}top1_std"] = result.std(correction=0).item()
    return summary


def _accuracy(probe: Probe, features: Tensor, labels: Tensor) -> float:
    return (probe(features).argmax(1) == labels).double().mean().item()
