"""Masked-image losses: pixels (MAE, SimMIM) and tokens (BEiT), counted only where a patch was hidden.

Each is one mean over all hidden patches of the batch. `mask`, bool [N, P], is true where a patch is hidden; if none is,
the loss is a zero that has a graph.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sslpipe.losses.precision import full_precision


@full_precision
def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor, norm_target: bool) -> Tensor:
    """Mean squared error of prediction and target, [N, P, D] each, D numbers a patch (He et al. 2022, section 3).

    With `norm_target` the target is (x - mean) / sqrt(var + 1e-6) of each patch, the variance unbiased.
    """
    if norm_target:
        variance, mean = target.var(dim=-1, keepdim=True), target.mean(dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return _mean_of_hidden((prediction - target).square().mean(dim=-1), mask)


@full_precision
def masked_l1(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error of prediction and target, [N, P, D] each (Xie et al. 2022, section 3.4)."""
    return _mean_of_hidden((prediction - target).abs().mean(dim=-1), mask)


@full_precision
def masked_token_cross_entropy(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of patches' visual words: logits [N, P, K], tokens int64 [N, P] (Bao et al. 2022, equation 2)."""
    nowhere = -100  # no word, so it adds nothing to the sum; indexing by the mask would wait for the device
    targets = tokens.masked_fill(~mask.bool(), nowhere)
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=nowhere, reduction="sum")
    return total / mask.sum().clamp(min=1)


def _mean_of_hidden(error: Tensor, mask: Tensor) -> Tensor:
    hidden = mask.to(error.dtype)
    return (error * hidden).sum() / hidden.sum().clamp(min=1)
