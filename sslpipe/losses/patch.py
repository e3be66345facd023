"""Patch-level contrastive loss: patches matched by geometry are positives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sslpipe.losses.precision import full_precision


@full_precision
def patch_info_nce(
    z1: Tensor,
    z2: Tensor,
    matches: Tensor,
    temperature: float,
    ignore: Tensor | None = None,
    *,
    anchors: int | None = None,
    chunk: int = 2048,
    by_image: bool = False,
) -> Tensor:
    """InfoNCE over patches: view 1's matched patches are anchors, one mean over all of the batch's.

    An anchor's denominator holds every patch of both views of the batch but the anchor itself, the positive
    included. Only matched anchors cost anything: to draw fewer, set the others' match to -1. Anchors are
    taken `chunk` at a time and their logits recomputed in the backward pass, so memory is chunk · 2NP.

    Args:
        z1: patches of view 1, [N, P, D], normalised inside.
        z2: patches of view 2 of the same images, [N, P, D].
        matches: int64 [N, P], for each patch of view 1 its patch in view 2 of the same image; -1 for none.
            If none has a match, the loss is a zero that has a graph.
        temperature: of the softmax.
        ignore: bool [N, P, P]; `ignore[n, i, j]` drops view 1's patch j from the denominator of its anchor i.
        anchors: how many patches are matched at most, where the caller knows: else the device is waited for to tell.
        chunk: anchors at a time; changes memory, not the result.
        by_image: a mean over the anchors of each image, and then over the images that have any.
    """
    patches1 = F.normalize(z1, dim=-1).flatten(0, 1)  # [NP, D]
    patches2 = F.normalize(z2, dim=-1).flatten(0, 1)  # [NP, D]
    matched = matches.flatten() >= 0  # [NP]
    if anchors is None:
        anchors = int(matched.sum())
    rows = (~matched).to(torch.uint8).argsort(stable=True)[:anchors]  # [A], the matched ones first
    counts = matched[rows].to(z1.dtype)  # [A] 1, and 0 for those that only fill up
    P = z1.shape[1]
    if by_image:
        counts = counts / (matches >= 0).sum(dim=1).clamp(min=1)[rows // P]  # [A], 1 in all of each image
    positives = rows // P * z2.shape[1] + matches.flatten()[rows].clamp(min=0)  # [A] rows of patches2

    def sum_over(anchor: Tensor, positive: Tensor, count: Tensor) -> Tensor:
        """The losses of C anchors, added up."""
        z = patches1[anchor] / temperature  # [C, D]
        excluded = torch.zeros(len(z), len(patches1), dtype=torch.bool, device=z.device)  # [C, NP]
        if ignore is not None:
            same_image = (anchor // P * P)[:, None] + torch.arange(P, device=z.device)  # [C, P]
            excluded.scatter_(1, same_image, ignore.flatten(0, 1)[anchor].bool())
        excluded.scatter_(1, anchor[:, None], True)
        within = (z @ patches1.T).masked_fill(excluded, -torch.inf)  # [C, NP]
        across = z @ patches2.T  # [C, NP]
        denominator = torch.cat([within, across], dim=1).logsumexp(dim=1)  # [C]
        return ((denominator - across.gather(1, positive[:, None])[:, 0]) * count).sum()

    total = (z1.sum() + z2.sum()) * 0.0
    for part in zip(rows.split(chunk), positives.split(chunk), counts.split(chunk), strict=True):
        total = total + checkpoint(sum_over, *part, use_reentrant=False, preserve_rng_state=False)
    return total / counts.sum().clamp(min=1)
