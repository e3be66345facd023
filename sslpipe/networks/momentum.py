"""Momentum networks: a slow copy that follows the trained network (BYOL, MoCo, DINO)."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class Momentum(nn.Module):
    """A copy of a network whose parameters are a running average of the original's, and take no gradient.

    Buffers are its own: batch-norm statistics come from the copy's own forward passes, as in the official
    BYOL (`target_state`), MoCo, MoCo v3 and DINO. It is meant to run in train mode, where batch norm
    normalises with the batch as it does online.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The copy's forward, without gradient."""
        with torch.no_grad():
            return self.network(*args, **kwargs)

    @torch.no_grad()
    def update(self, online: nn.Module, momentum: float) -> None:
        """ξ ← m ξ + (1 - m) θ, θ of the network `online`; call it once per optimiser step, after it."""
        ours, theirs = (tuple(network.parameters()) for network in (self.network, online))
        torch._foreach_lerp_(ours, theirs, 1.0 - momentum)


def cosine_momentum(base: float, progress: float) -> float:
    """BYOL's momentum: from `base` at progress 0 to 1 at progress 1, 1 - (1 - base) · (cos πk/K + 1) / 2."""
    return 1.0 - (1.0 - base) * (math.cos(math.pi * progress) + 1.0) / 2.0
