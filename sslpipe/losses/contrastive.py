"""Image-level contrastive losses: NT-Xent (SimCLR), InfoNCE against a queue (MoCo) and a batch (MoCo v3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslpipe.losses.precision import full_precision


@full_precision
def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy (Chen et al. 2020, equation 1).

    The mean over the 2N anchors; SimCLR's official code adds the means of the two views and so gives twice
    this value. Under several processes the caller gathers `z1` and `z2` first.

    Args:
        z1: projections of the first views, [N, D], normalised inside.
        z2: projections of the second views of the same images, [N, D].
        temperature: softmax temperature.
    """
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # [2N, D]
    similarity = z @ z.T / temperature  # [2N, 2N]
    n = len(z1)
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    positive = torch.arange(2 * n, device=z.device).roll(n)  # the other view of the same image
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), positive)


@full_precision
def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE with a queue of negatives (He et al. 2020, equation 1), the mean over the N queries.

    Args:
        query: [N, D], normalised inside.
        key: the positive of each query, [N, D], normalised inside; no gradient reaches it.
        queue: negatives shared by all queries, [K, D], normalised inside; no gradient reaches it.
        temperature: softmax temperature.
    """
    q = F.normalize(query, dim=1)  # [N, D]
    k = F.normalize(key.detach(), dim=1)  # [N, D]
    negatives = F.normalize(queue.detach(), dim=1)  # [K, D]
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives.T], dim=1) / temperature  # [N, 1 + K]
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@full_precision
def batch_info_nce(query: Tensor, keys: Tensor, temperature: float, first: int = 0) -> Tensor:
    """InfoNCE whose negatives are the keys of the batch's other images (Chen et al. 2021, equation 1).

    The mean over the N queries. MoCo v3 multiplies it by twice the temperature.

    Args:
        query: [N, D], normalised inside.
        keys: of all ranks' images in rank order, [M, D], normalised inside; no gradient reaches them.
        temperature: softmax temperature.
        first: row of the first query's key; those of the others follow. Under several processes rank · N.
    """
    logits = F.normalize(query, dim=1) @ F.normalize(keys.detach(), dim=1).T / temperature  # [N, M]
    return F.cross_entropy(logits, first + torch.arange(len(query), device=query.device))
