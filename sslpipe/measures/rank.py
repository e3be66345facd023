"""How far features spread, and how many dimensions they fill."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """Mean standard deviation of the normalised rows of z [N, D], times √D: 1 when spread out, 0 when collapsed.

    Chen & He 2021, Fig. 2.
    """
    z = F.normalize(z.float(), dim=1)
    return z.std(dim=0).mean() * z.shape[1] ** 0.5


@torch.no_grad()
def effective_rank(z: Tensor) -> Tensor:
    """RankMe: how many dimensions the rows of z [N, D] fill, from 1 to min(N, D).

    exp(−Σ_k p_k log p_k) with p_k = σ_k / Σ_j σ_j + ε, σ the singular values of z and ε = 1e-7.

    Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
    Their Rank", ICML 2023, eq. 1. It says which of two runs of one method is the better, not which of two methods.
    """
    return rank_of(torch.linalg.svdvals(z.double()))  # of [min(N, D)]


@torch.no_grad()
def rank_of(spectrum: Tensor) -> Tensor:
    """How many of a spectrum's values, at least 0, count: the exponential of the entropy of their shares.

    exp(−Σ_k p_k log p_k) with p_k = s_k / Σ_j s_j + 1e-7 (Roy & Vetterli 2007): K for K equal values, 1 for one.
    """
    p = spectrum / spectrum.sum().clamp(min=torch.finfo(spectrum.dtype).tiny) + 1e-7
    return torch.special.entr(p).sum().exp()
