"""Linear probe: a linear classifier on frozen features, with all labels and with few.

SGD with momentum and, unless asked for, no weight decay, as in MoCo, SimSiam and MAE's protocols. Features are
standardised by the training set's mean and deviation (MAE's batch norm without affine). Every learning rate and
weight decay is trained at once, as DINOv2 does, on all folds of a cross-validation and on all labels; the folds choose,
and the head trained on all labels with what they chose is tested once, after its last epoch.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from sslpipe import config
from sslpipe.device import resolve
from sslpipe.errors import UserError
from sslpipe.evals.features import KINDS, Features
from sslpipe.evals.subsets import Labels, count_of, draw, folds

CHUNK = 1 << 26  # logits of held-out features at a time: some hundred MB
KEPT = 4 << 30  # bytes of features that are kept on the device
_ITERATIONS = 1000  # of the logistic regression at most
#: Gives features of the images at some places, int64 [n], in an epoch: float32 [n, D].
Views = Callable[[Tensor, int], Tensor]
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)  # C of the logistic regression: the inverse of its penalty


class Config(config.Config):
    """Settings of the section `linear`."""

    enabled: bool = True
    epochs: int = Field(90, ge=1)
    min_steps: int = Field(
        300, ge=1, description="few labels make few steps an epoch: train at least so many"
    )
    batch_size: int = Field(256, ge=1)
    rates: tuple[float, ...] = Field((0.001, 0.003, 0.01, 0.03, 0.1, 0.3), min_length=1)
    weight_decays: tuple[float, ...] = Field(
        (0.0,), min_length=1, description="each is tried with each rate; on weights, not on biases"
    )
    momentum: float = Field(0.9, ge=0, lt=1)
    folds: int = Field(5, ge=2)
    few_labels: tuple[Labels, ...] = Field(
        (400, 100),
        description='numbers of labels to repeat the probe with, such as 400, "10%" or "5 per class"',
    )
    draws: int = Field(5, ge=1, description="random draws of few labels; their mean and spread are reported")
    logistic: bool = Field(False, description="also logistic regression, by scikit-learn, on all labels")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    def heads(self) -> list[tuple[float, float]]:
        """All pairs of a learning rate and a weight decay."""
        return list(itertools.product(self.rates, self.weight_decays))


@dataclass(frozen=True)
class Probe:
    """A trained linear classifier: logits = standardised features · weight + bias.

    Attributes:
        weight: [D, C].
        bias: [C].
        mean: [D] of the training features.
        std: [D] of the training features; infinite for one that is the same in all.
        rate: the learning rate that was chosen.
        weight_decay: the weight decay that was chosen with it.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    rate: float
    weight_decay: float = 0.0

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [M, C] of features [M, D]."""
        return (features - self.mean) / self.std @ self.weight + self.bias


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    settings: Config,
    seed: int,
    device: torch.device | str = "cpu",
    views: Views | None = None,
) -> Probe:
    """Train a probe, its rate and weight decay chosen by cross-validation within these labels.

    Args:
        features: float32 [N, D].
        labels: int64 [N].
        classes: C.
        settings: the protocol.
        seed: of the folds and of the order of batches.
        device: where it is trained; features come a batch at a time.
        views: gives other features of the images at some places in each epoch, float32 [n, D], to learn from; None for
            `features`. Standardisation and choice rest on `features`.
    """
    mean, std = features.mean(0), features.std(0, correction=0)
    std[std < 1e-6] = math.inf  # what is the same in all images is left out: other views may have it
    data = _Standardised(features, mean, std, labels, torch.device(device), views)
    fold = folds(labels, min(settings.folds, len(labels)), seed)
    # Head [f, h] leaves fold f out and learns by setting h; the last row of heads leaves nothing out.
    left_out = [*range(int(fold.max()) + 1), -1]
    weight, bias = _train(data, fold, left_out, classes, settings, seed)
    hits, losses = _held_out(data, fold, left_out[:-1], weight, bias)
    best = max(range(len(hits)), key=lambda head: (hits[head], -losses[head]))
    return Probe(weight[-1, best].cpu(), bias[-1, best].cpu(), mean, std, *settings.heads()[best])


class _Standardised:
    """Features and labels, given out standardised and on a device; kept there if they are not too many."""

    def __init__(
        self,
        features: Tensor,
        mean: Tensor,
        std: Tensor,
        labels: Tensor,
        device: torch.device,
        views: Views | None = None,
    ) -> None:
        self.kept = features.nbytes <= KEPT
        self.features = ((features - mean) / std).to(device) if self.kept else features
        self.mean, self.std, self.labels, self.device = mean, std, labels.to(device), device
        self.views = views

    def rows(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """[n, D] and int64 [n]."""
        here = places.to(self.device)
        if self.kept:
            return self.features[here], self.labels[here]
        return ((self.features[places] - self.mean) / self.std).to(self.device), self.labels[here]

    def learned(self, places: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """The same to learn from: the views of an epoch, where there are such."""
        if self.views is None:
            return self.rows(places)
        x = self.views(places, epoch).to(self.device)
        return (x - self.mean.to(self.device)) / self.std.to(self.device), self.labels[places.to(self.device)]


def _train(
    data: _Standardised, fold: Tensor, left_out: list[int], classes: int, settings: Config, seed: int
) -> tuple[Tensor, Tensor]:
    """Train F · H heads side by side; weight [F, H, D, C] and bias [F, H, C]."""
    n, d = data.features.shape
    device, heads = data.device, settings.heads()
    f, h = len(left_out), len(heads)
    # Heads lie side by side in one matrix, so that a step is two matrix products: [D, F·H·C].
    weight, bias = torch.zeros(d, f * h * classes, device=device), torch.zeros(f * h * classes, device=device)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rates, decays = (  # [F·H·C] each
        torch.tensor(column, device=device)[:, None].expand(f, h, classes).reshape(-1)
        for column in zip(*heads, strict=True)
    )
    decayed = any(decay for _, decay in heads)
    used = (fold[:, None] != torch.tensor(left_out)).float()[:, :, None, None].to(device)  # [N, F, 1, 1]
    size = min(settings.batch_size, n)
    per_epoch = -(-n // size)
    total = max(settings.epochs * per_epoch, settings.min_steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(total):
        if step % per_epoch == 0:
            batches = torch.randperm(n, generator=generator).split(size)
        rows = batches[step % per_epoch]
        (xb, yb), share = (
            data.learned(rows, step // per_epoch),
            used[rows.to(device)],
        )  # [B, D], [B], [B, F, 1, 1]
        share = share / share.sum(0).clamp_min(1)
        logits = torch.addmm(bias, xb, weight).view(-1, f, h, classes)
        target = one_hot(yb, classes).float()[:, None, None]  # [B, 1, 1, C]
        gradient = (logits.softmax(-1) - target) * share  # of the mean cross-entropy
        gradient = gradient.view(len(rows), -1)  # [B, F·H·C]
        of_weight = xb.T @ gradient
        if decayed:
            of_weight.addcmul_(weight, decays)
        factor = 0.5 * (1 + math.cos(math.pi * step / total))
        for parameter, v, g in zip((weight, bias), velocity, (of_weight, gradient.sum(0)), strict=True):
            v.mul_(settings.momentum).add_(g)
            parameter.addcmul_(rates, v, value=-factor)
    return weight.view(d, f, h, classes).permute(1, 2, 0, 3), bias.view(f, h, classes)


def _held_out(
    data: _Standardised, fold: Tensor, left_out: list[int], weight: Tensor, bias: Tensor
) -> tuple[list[float], list[float]]:
    """For each setting, over the samples its heads did not see: how many are right, and their summed loss."""
    _, count, _, classes = weight.shape
    hits, losses = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for row, held in enumerate(left_out):
        for places in (fold == held).nonzero()[:, 0].split(max(CHUNK // (count * classes), 1)):
            x, y = data.rows(places)
            logits = x @ weight[row] + bias[row][:, None]  # [H, m, C]
            hits += (logits.argmax(-1) == y).sum(-1).cpu()
            losses += torch.stack([cross_entropy(each, y, reduction="sum") for each in logits]).cpu()
    return hits.tolist(), losses.tolist()


def evaluate(
    train: Features, test: Features, settings: Config, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What metrics/linear.json holds, and predictions [M] by prefix (see `features.KINDS`)."""
    classes, device = int(train.label.max()) + 1, resolve(settings.device)
    metrics: dict[str, Any] = {}
    used: dict[str, dict[str, float]] = {"rate_used": {}, "weight_decay_used": {}}
    predicted: dict[str, Tensor] = {}
    for prefix, kind in KINDS:
        probe = fit(getattr(train, kind), train.label, classes, settings, seed, device)
        predicted[prefix] = probe(getattr(test, kind)).argmax(1)
        metrics[f"{prefix}top1"] = _share(predicted[prefix] == test.label)
        used["rate_used"][kind], used["weight_decay_used"][kind] = probe.rate, probe.weight_decay
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
    metrics["protocol"] = {
        **settings.model_dump(mode="json", exclude={"enabled", "device"}),
        "optimiser": f"SGD, cosine, {decay}standardised features",
        **used,
        "chosen_on": f"{settings.folds}-fold cross-validation within the labels used; last epoch reported",
        "train_images": len(train.label),
        "test_images": len(test.label),
    }
    return metrics, predicted


def _few_labels(
    train: Features, test: Features, count: int, classes: int, settings: Config, seed: int
) -> dict[str, float]:
    """Mean and spread over draws of `count` labels; all kinds of features see the same draws."""
    summary: dict[str, float] = {}
    device = resolve(settings.device)
    for prefix, kind in KINDS:
        scores = []
        for number in range(settings.draws):
            rows = draw(train.label, count, seed=seed + 1000 * count + number)
            probe = fit(getattr(train, kind)[rows], train.label[rows], classes, settings, seed, device)
            scores.append(_share(probe(getattr(test, kind)).argmax(1) == test.label))
        result = torch.tensor(scores, dtype=torch.float64)
        summary[f"{prefix}top1"] = result.mean().item()
        summary[f"{prefix}top1_std"] = result.std(correction=0).item()
    return summary


def logistic(train: Features, test: Features, settings: Config, seed: int) -> dict[str, float | bool]:
    """Multinomial logistic regression with an L2 penalty, by scikit-learn: top-1 on test, the C chosen, and whether it
    came to its optimum in `_ITERATIONS`.

    The strength of the penalty is chosen among `STRENGTHS` by the same folds as the probe's rate.

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


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
