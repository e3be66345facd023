"""Cross entropies over classes: of labels (rotation, jigsaw), and of soft targets by weight (colorization)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sslpipe.losses.precision import full_precision


@full_precision
def label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p of the right one of K classes, the mean over N: logits [N, K], labels int64 [N]."""
    return F.cross_entropy(logits, labels)


@full_precision
def rebalanced_cross_entropy(logits: Tensor, classes: Tensor, shares: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy with soft targets, each cell weighted (Zhang et al. 2016, equation 2): the mean over cells.

    The logits [N, Q, h, w] are over Q colours. A cell's target is K of them, `classes` int64 [N, K, h, w], whose
    `shares` [N, K, h, w] sum to 1 over K and take no gradient. `weight` [N, h, w] is what a cell counts; the mean
    divides by the number of cells, not by the weights.
    """
    log_p = logits.log_softmax(dim=1).gather(1, classes)  # [N, K, h, w]
    return -(weight * (shares * log_p).sum(dim=1)).mean()
