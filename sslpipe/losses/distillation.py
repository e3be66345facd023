"""Losses between a prediction and a target that carries no gradient (BYOL, SimSiam)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sslpipe.losses.precision import full_precision


@full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine similarity, the mean over N; in [-1, 1] (Chen & He 2021, equation 1).

    BYOL's squared distance of normalised vectors is 2 + 2 · this.

    Args:
        p: predictions, [N, D].
        z: targets, [N, D]; not differentiated.
    """
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()
