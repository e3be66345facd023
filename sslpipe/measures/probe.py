"""Linear probe: a linear classifier on frozen features.

SGD with momentum and, unless asked for, no weight decay, as in MoCo, SimSiam and MAE's protocols. Features are
standardised by the training set's mean and deviation (MAE's batch norm without affine). Every learning rate and
weight decay is trained at once, as DINOv2 does, on all folds of a cross-validation and on all labels; the folds choose,
and the head trained on all labels with what they chose is tested once, after its last epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from sslpipe.core.device import to_device
from sslpipe.measures.config import ProbeConfig
from sslpipe.measures.subsets import folds

CHUNK = 1 << 26  # logits of held-out features at a time: some hundred MB
KEPT = 4 << 30  # bytes of features that are kept on the device
#: From indices of images, int64 [n], and an epoch to these images' features in it: float32 [n, D].
Views = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Probe:
    """A trained linear classifier: logits = standardised features · weight + bias."""

    weight: Tensor  # [D, C]
    bias: Tensor  # [C]
    mean: Tensor  # [D] of the training features
    std: Tensor  # [D] of the training features; infinite for one that is the same in all
    lr: float  # the learning rate that was chosen
    weight_decay: float = 0.0  # the weight decay that was chosen with it

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [M, C] of features [M, D]."""
        return (features - self.mean) / self.std @ self.weight + self.bias


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    settings: ProbeConfig,
    seed: int,
    device: torch.device | str = "cpu",
    views: Views | None = None,
) -> Probe:
    """Train a probe, its rate and weight decay chosen by cross-validation within these labels.

    Features are float32 [N, D], labels int64 [N] of C classes. The seed is of the folds and of the order of batches;
    features come to the device a batch at a time. With `views` it learns from what they give in each epoch, while
    standardisation and choice rest on `features`.
    """
    mean, std = features.mean(0), features.std(0, correction=0)
    std[std < 1e-6] = math.inf  # what is the same in all images is left out: other views may have it
    data = _Standardised(features, mean, std, labels.to(device), views)
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
        self, features: Tensor, mean: Tensor, std: Tensor, labels: Tensor, views: Views | None
    ) -> None:
        self.mean, self.std, self.labels, self.device, self.views = mean, std, labels, labels.device, views
        self.there = to_device(mean, self.device), to_device(std, self.device)
        self.kept = features.nbytes <= KEPT
        self.features = ((features - mean) / std).to(self.device) if self.kept else features

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """[n, D] and int64 [n]."""
        here = to_device(indices, self.device)
        if self.kept:
            return self.features[here], self.labels[here]
        return to_device((self.features[indices] - self.mean) / self.std, self.device), self.labels[here]

    def learned(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """The same to learn from: the views of an epoch, where there are such."""
        if self.views is None:
            return self.rows(indices)
        x = to_device(self.views(indices, epoch), self.device)
        mean, std = self.there
        x = (x - mean) / std
        return x, self.labels[to_device(indices, self.device)]


def _train(
    data: _Standardised, fold: Tensor, left_out: list[int], classes: int, settings: ProbeConfig, seed: int
) -> tuple[Tensor, Tensor]:
    """Train F · H heads side by side; weight [F, H, D, C] and bias [F, H, C]."""
    n, d = data.features.shape
    device, heads = data.device, settings.heads()
    f, h = len(left_out), len(heads)  # F, H
    # Heads lie side by side in one matrix, so that a step is two matrix products: [D, F·H·C].
    weight, bias = torch.zeros(d, f * h * classes, device=device), torch.zeros(f * h * classes, device=device)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    lrs, decays = (  # [F·H·C] each
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
        xb, yb = data.learned(rows, step // per_epoch)  # [B, D], [B]
        counts = used[to_device(rows, device)]  # [B, F, 1, 1]
        logits = torch.addmm(bias, xb, weight).view(-1, f, h, classes)
        target = one_hot(yb, classes).float()[:, None, None]  # [B, 1, 1, C]
        counts = counts / counts.sum(0).clamp_min(1)
        gradient = (logits.softmax(-1) - target) * counts  # of the mean cross-entropy
        gradient = gradient.view(len(rows), -1)  # [B, F·H·C]
        of_weight = xb.T @ gradient
        if decayed:
            of_weight.addcmul_(weight, decays)
        factor = 0.5 * (1 + math.cos(math.pi * step / total))
        for parameter, v, g in zip((weight, bias), velocity, (of_weight, gradient.sum(0)), strict=True):
            v.mul_(settings.momentum).add_(g)
            parameter.addcmul_(lrs, v, value=-factor)
    return weight.view(d, f, h, classes).permute(1, 2, 0, 3), bias.view(f, h, classes)


def _held_out(
    data: _Standardised, fold: Tensor, left_out: list[int], weight: Tensor, bias: Tensor
) -> tuple[list[float], list[float]]:
    """For each setting, over the samples its heads did not see: how many are right, and their summed loss."""
    _, count, _, classes = weight.shape
    hits, losses = torch.zeros(2, count, dtype=torch.float64, device=data.device)
    for row, held in enumerate(left_out):
        for indices in (fold == held).nonzero()[:, 0].split(max(CHUNK // (count * classes), 1)):
            x, y = data.rows(indices)
            logits = x @ weight[row] + bias[row][:, None]  # [H, m, C]
            hits += (logits.argmax(-1) == y).sum(-1)
            losses += torch.stack([cross_entropy(each, y, reduction="sum") for each in logits])
    return hits.tolist(), losses.tolist()
