"""Losses of images' embeddings: NT-Xent (SimCLR), InfoNCE against a queue (MoCo) or a batch (MoCo v3), the cosine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslpipe.losses.precision import full_precision


@full_precision
def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy (Chen et al. 2020, equation 1), the mean over the 2N anchors.

    z1 and z2 are projections of two views of the same images, [N, D] each, normalised inside; under several processes
    the caller gathers them first. SimCLR's official code adds the means of the two views: twice this value.
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

    Queries and their positives `key` are [N, D], the negatives in `queue`, shared by all queries, [K, D]. All are
    normalised inside; no gradient reaches key or queue.
    """
    q = F.normalize(query, dim=1)  # [N, D]
    k = F.normalize(key.detach(), dim=1)  # [N, D]
    negatives = F.normalize(queue.detach(), dim=1)  # [K, D]
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives.T], dim=1) / temperature  # [N, 1 + K]
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@full_precision
def batch_info_nce(query: Tensor, keys: Tensor, temperature: float, first: int = 0) -> Tensor:
    """InfoNCE whose negatives are the keys of the batch's other images (Chen et al. 2021, equation 1).

    The mean over the N queries; MoCo v3 multiplies it by twice the temperature. Queries are [N, D]; keys are those of
    all ranks' images in rank order, [M, D], and no gradient reaches them; both are normalised inside. The key of the
    first query is in row `first` (rank · N), those of the others follow.
    """
    logits = F.normalize(query, dim=1) @ F.normalize(keys.detach(), dim=1).T / temperature  # [N, M]
    return F.cross_entropy(logits, first + torch.arange(len(query), device=query.device))


@full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine of predictions p and targets z, [N, D] each, the mean over N (Chen & He 2021, equation 1).

    No gradient reaches z. BYOL's squared distance of normalised vectors is 2 + 2 · this.
    """
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()
