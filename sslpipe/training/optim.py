"""From a method's parameter groups to an optimiser, and its rates at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sslpipe.methods.base import Clock, OptimizerConfig, ParamGroup
from sslpipe.training.schedules import rate_factor, weight_decay


def build(groups: Sequence[ParamGroup], config: OptimizerConfig, batch_size: int) -> torch.optim.Optimizer:
    """AdamW and SGD from torch, LARS from timm.

    Args:
        groups: what to optimise; groups without `adapt` take plain steps under LARS.
        config: the method's optimiser settings.
        batch_size: the global batch, which scales the rate.
    """
    peak = config.peak(batch_size)
    settings: list[dict[str, Any]] = [
        {
            "params": group.parameters,
            "lr": peak * group.rate_scale,
            "weight_decay": config.weight_decay if group.decay else 0.0,
            "peak": peak * group.rate_scale,
            "fixed_rate": group.fixed_rate,
            "decay": group.decay,
        }
        for group in groups
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(settings, lr=peak, betas=config.betas)
    if config.name == "sgd":
        return torch.optim.SGD(settings, lr=peak, momentum=config.momentum)
    from timm.optim import Lars  # here, because importing timm takes seconds

    for setting, group in zip(settings, groups, strict=True):
        # timm adapts a group with weight decay 0 only when told to; weights always adapt, norms and biases never.
        setting["always_adapt"] = group.adapt
    return Lars(settings, lr=peak, momentum=config.momentum)


def set_rates(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, clock: Clock, epoch: float, epochs: int
) -> None:
    """Give every group its learning rate and weight decay for this step."""
    factor, decay = rate_factor(config, epoch, epochs), weight_decay(config, clock.progress)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * (1.0 if group["fixed_rate"] else factor)
        if group["decay"]:
            group["weight_decay"] = decay
