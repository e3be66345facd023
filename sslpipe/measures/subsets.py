"""Parts of a set of labels: how many are wanted, stratified draws, random samples and folds."""

from __future__ import annotations

import torch
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.measures.config import SHARE, readable


def count_of(wanted: int | str, labels: Tensor) -> int:
    """How many of the labels, int64 [N], are wanted: a number, a fraction such as "10%", or "5 per class".

    Raises:
        UserError: it is none of these.
    """
    if isinstance(wanted, int):
        return wanted
    try:
        readable(wanted)
    except ValueError as error:
        raise UserError(f"{wanted!r} {error}") from None
    if share := SHARE.fullmatch(wanted):
        return max(1, round(float(share[1]) / 100 * len(labels)))
    return int(wanted.split()[0]) * len(labels.unique())


def draw(labels: Tensor, count: int | None, seed: int) -> Tensor:
    """Indices of `count` labels (None: all) of int64 [N], each class as often as far as it goes, in random order.

    There is at least one of each class where there is room.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if count is None or count >= len(labels):
        return order
    rank = _rank_in_class(labels[order])
    # Sorting by rank takes every class's first, then every class's second, …: equal shares.
    return order[rank.argsort(stable=True)[:count]]


def sample(count: int, limit: int, seed: int) -> Tensor:
    """At most `limit` of the indices 0 … count − 1, drawn by seed, in order: int64 [M]."""
    if count <= limit:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


def folds(labels: Tensor, count: int, seed: int) -> Tensor:
    """A fold number 0 … count−1 for each label, [N], each class spread over all folds."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[by_class] = torch.arange(len(labels)) % count
    return fold


def _rank_in_class(labels: Tensor) -> Tensor:
    """How many earlier entries have the same label, [N]."""
    rank = torch.empty_like(labels)
    for label in labels.unique():
        here = labels == label
        rank[here] = torch.arange(int(here.sum()))
    return rank
