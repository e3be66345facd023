"""Online clustering: Sinkhorn-Knopp codes and swapped prediction (SwAV)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslpipe.losses.precision import full_precision


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft codes that use all prototypes equally (Caron et al. 2020, section 3.1); no gradient.

    From similarities of samples to prototypes, [N, K], to codes [N, K] whose rows sum to 1; a smaller ε, the weight of
    the entropy, gives sharper ones. In the log domain, since exp(scores / ε) overflows float32 at small ε. Each round
    normalises prototypes (columns), then samples (rows). Under several processes the caller gathers the scores and
    keeps its rows.

    Raises:
        ValueError: `epsilon` is not positive or `iterations` is below 1.
    """
    if epsilon <= 0 or iterations < 1:
        raise ValueError(f"sinkhorn needs epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}")
    log_codes = scores / epsilon  # [N, K]
    for _ in range(iterations):
        log_codes = log_codes - log_codes.logsumexp(dim=0, keepdim=True)
        log_codes = log_codes - log_codes.logsumexp(dim=1, keepdim=True)
    return log_codes.exp()


@full_precision
def swapped_prediction(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float) -> Tensor:
    """Cross entropy of each view's codes with every other view's scores (Caron et al. 2020, equation 2).

    The scores are a tensor [N, K] for each of V views, large crops first, the codes one for each of the first A views;
    no gradient reaches the codes. The mean over the A · (V - 1) pairs (a, v != a) and over N.
    """
    log_p = [(score / temperature).log_softmax(dim=1) for score in scores]
    pairs = [(code, log_p[v]) for a, code in enumerate(codes) for v in range(len(scores)) if v != a]
    return torch.stack([-(code.detach() * p).sum(dim=1).mean() for code, p in pairs]).mean()
