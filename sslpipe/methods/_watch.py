"""Numbers worth watching that several methods have; no method, so its name begins with an underscore."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """How alike the rows of a and b [N, D] are, the mean over N: 1 for all is collapse."""
    return F.cosine_similarity(a.float(), b.float()).mean()


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """Mean standard deviation of the normalised rows of z [N, D], times √D: 1 when spread out, 0 when collapsed.

    Chen & He 2021, Fig. 2.
    """
    z = F.normalize(z.float(), dim=1)
    return z.std(dim=0).mean() * z.shape[1] ** 0.5
