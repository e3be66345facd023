"""Retrieval by features: does a test image find training images of its class, and how far up the list?

Cosine similarity, exact. Recall@k as in metric learning (Jégou et al. 2011): the fraction of queries with an image of
their class among the k nearest. Mean average precision over the whole ranking, as in image retrieval (Philbin et al.
2007): AP = 1/R Σ_r P(rank of the r-th relevant image), where P(n) is the fraction of relevant images among the first n.
R-precision: the fraction of relevant images among the first R, where R is how many there are.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sslpipe.console.errors import UserError
from sslpipe.core.device import take, to_device
from sslpipe.evals.base.features import KINDS
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.neighbours import sheet
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.retrieval import Config

NEIGHBOURS = 8  # that the report has room for
CHUNK = 1 << 26  # similarities ranked at a time: some hundred MB


def scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    ks: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """What each query finds: float64 [M] each, `recall_k` for each k, 0 or 1; `average_precision`; `r_precision`.

    Bank [N, D] and queries [M, D] are normalised inside, and the bank is ranked on `device`; labels are int64. Each
    query has an image of its class in the bank; every k is cut to N.
    """
    device = torch.device(device)
    x, known = to_device(normalize(bank.float(), dim=1), device), to_device(bank_labels, device)
    found: list[dict[str, Tensor]] = []
    few = max(1, CHUNK // len(bank))
    rank = torch.arange(1, len(bank) + 1, device=device, dtype=torch.float64)  # [N]
    for chunk, wanted in zip(queries.split(few), labels.split(few), strict=True):
        order = (to_device(normalize(chunk.float(), dim=1), device) @ x.T).argsort(dim=1, descending=True)
        relevant = known[order] == to_device(wanted, device)[:, None]  # [m, N], the nearest first
        total = relevant.sum(dim=1)  # R, [m]
        hits = relevant.cumsum(dim=1).double()  # [m, N]
        found.append(
            {
                **{f"recall_{k}": hits[:, min(k, len(bank)) - 1].clamp_max(1) for k in ks},
                "average_precision": (relevant * hits / rank).sum(dim=1) / total,
                "r_precision": hits.gather(1, total[:, None] - 1)[:, 0] / total,
            }
        )
    return {name: torch.cat([part[name].cpu() for part in found]) for name in found[0]}


def evaluate(inputs: Inputs, config: Config, seed: int) -> Outcome:
    """Recall, mean average precision and R-precision; the details are the queries that fare worst.

    Raises:
        UserError: no test image has a class that train has, too.
    """
    train, test = inputs.labelled_features()
    asking = torch.isin(test.label, train.label).nonzero()[:, 0]
    if not len(asking):
        raise UserError("retrieval: no test image has a class that a training image has, too")
    even = torch.linspace(0, len(asking) - 1, min(config.queries, len(asking))).long()
    asking, device = asking[even], take(config.device)
    metrics: dict[str, Any] = {}
    own: dict[str, Tensor] = {}
    for prefix, kind in KINDS:
        bank, queries = getattr(train, kind), getattr(test, kind)[asking]
        found = scores(bank, train.label, queries, test.label[asking], (1, *config.ks), device)
        metrics[f"{prefix}top1"] = found["recall_1"].mean().item()
        metrics |= {f"{prefix}recall_{k}": found[f"recall_{k}"].mean().item() for k in config.ks}
        metrics[f"{prefix}map"] = found["average_precision"].mean().item()
        metrics[f"{prefix}r_precision"] = found["r_precision"].mean().item()
        own = own or found
    protocol = {
        "similarity": "cosine",
        "queries": len(asking),
        "bank": len(train.label),
        "ks": list(config.ks),
        "chosen_on": "nothing: there is nothing to choose",
    }
    precision = own["average_precision"]
    worst = precision.argsort(stable=True)[: config.shown]
    rows = sheet(train, test, asking[worst], NEIGHBOURS)
    for row, score in zip(rows, precision[worst].tolist(), strict=True):
        row["average_precision"] = round(score, 4)
    return Outcome(metrics=metrics, protocol=protocol, details=rows)


def plots(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """The queries that fare worst."""
    return {"worst.json": json.dumps(outcome.details, indent=2)}
