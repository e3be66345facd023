"""From a method's parameter groups to an optimiser, and its rates at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, ParamGroup
from sslpipe.training.core import parallel
from sslpipe.training.core.schedules import lr_factor, weight_decay


def build(groups: Sequence[ParamGroup], config: OptimizerConfig, batch_size: int) -> torch.optim.Optimizer:
    """AdamW and SGD from torch, LARS from timm; `batch_size` is the global batch, which scales the learning rate."""
    peak = config.peak(batch_size)
    settings: list[dict[str, Any]] = [
        {
            "params": group.parameters,
            "lr": peak * group.lr_scale,
            "weight_decay": config.weight_decay if group.decay else 0.0,
            "peak": peak * group.lr_scale,
            "fixed_lr": group.fixed_lr,
            "decay": group.decay,
        }
        for group in groups
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(settings, lr=peak, betas=config.betas, fused=True)
    if config.name == "sgd":
        # torch's fused SGD does not take tensors of which each process has a share; its fused AdamW does.
        sharded = any(parallel.is_sharded(parameter) for group in groups for parameter in group.parameters)
        fused = None if sharded else True
        optimizer = torch.optim.SGD(settings, lr=peak, momentum=config.momentum, fused=fused)
        if config.momentum:
            # All from the start: fused, it does not take some with and some without, as frozen prototypes would be.
            for parameter in _parameters(optimizer):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    from timm.optim import Lars  # here, because importing timm takes seconds

    for setting, group in zip(settings, groups, strict=True):
        # timm adapts a group with weight decay 0 only when told to; weights always adapt, norms and biases never.
        setting["always_adapt"] = group.adapt
    return Lars(settings, lr=peak, momentum=config.momentum)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict`, with the state laid out in memory as the parameters are.

    A checkpoint is contiguous and whole; fused optimisers walk parameter and state side by side, and go wrong where the
    one is channels-last, or sharded, and the other is not.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = parallel.alike(value, parameter)


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer, bad: Tensor | None = None) -> None:
    """One update of everything, or none of anything where `bad` is 1; the host does not wait to know which.

    `bad` is a float32 scalar on the device, 0 or 1; None where the host knows that all is well.
    """
    if bad is None:
        optimizer.step()
        return
    if optimizer.defaults.get("fused"):
        optimizer.found_inf, optimizer.grad_scale = bad, None  # type: ignore[attr-defined]
        optimizer.step()
        return
    states = [value for state in optimizer.state.values() for value in state.values()]
    held = _parameters(optimizer) + [value for value in states if isinstance(value, Tensor)]
    own = [value.to_local() if parallel.is_sharded(value) else value for value in held]  # type: ignore[attr-defined]
    # As one tensor: three launches instead of two for each of hundreds of tensors.
    before = _flat(own)
    optimizer.step()
    after = _flat(own)
    torch.where(bad > 0, before, after, out=after)
    parts = after.split([value.numel() for value in own])
    torch._foreach_copy_(own, [part.view(value.shape) for part, value in zip(parts, own, strict=True)])


def _flat(values: Sequence[Tensor]) -> Tensor:
    """All numbers of some tensors, as one new tensor [n]."""
    return torch.cat([value.reshape(-1) for value in values])


def clip(optimizer: torch.optim.Optimizer, largest: float | None, norm: Tensor) -> None:
    """Scale all gradients so that their norm, which is `norm`, is at most `largest`."""
    if largest is not None:
        torch.nn.utils.clip_grads_with_norm_(_parameters(optimizer), largest, norm)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_lrs(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, clock: Clock, epoch: float, epochs: int
) -> None:
    """Give every group its learning rate and weight decay for this step."""
    factor, decay = lr_factor(config, epoch, epochs), weight_decay(config, clock.progress)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * (1.0 if group["fixed_lr"] else factor)
        if group["decay"]:
            group["weight_decay"] = decay
