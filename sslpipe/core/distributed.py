"""Ranks, gathers with gradient, and batch norm synchronised over ranks, also on CPUs (gloo).

Everything here is the identity in a single process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslpipe.console.errors import UserError


def rank() -> int:
    """This process's number among `world_size()`; 0 when alone."""
    return dist.get_rank() if _initialised() else 0


def world_size() -> int:
    """How many processes train together; 1 when alone."""
    return dist.get_world_size() if _initialised() else 1


def gather(x: Tensor) -> Tensor:
    """All ranks' rows in rank order: [N, …] on each of W ranks → [W · N, …] on all; N must be equal.

    Differentiable: the backward pass sums the ranks' gradients. With the same global loss on every rank and
    DDP's averaging of parameter gradients, W processes of N rows give the gradients of one of W · N.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def mean(x: Tensor) -> Tensor:
    """The mean over ranks of a tensor of equal shape on each, without gradient: for centres and logs."""
    return x.detach() if world_size() == 1 else _summed(x.detach()) / world_size()


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` whose statistics in training are those of all ranks' rows together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C] or [N, C, L]."""
        return _synchronised(self, x) if self.training and world_size() > 1 else super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose statistics in training are those of all ranks' rows together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W]."""
        return _synchronised(self, x) if self.training and world_size() > 1 else super().forward(x)


_OURS: dict[type, type] = {nn.BatchNorm1d: BatchNorm1d, nn.BatchNorm2d: BatchNorm2d}
_SYNCHRONISED = tuple(_OURS.values())


def synchronise(module: nn.Module) -> nn.Module:
    """Make the batch norms of a network that others wrote synchronise over ranks; returns the same module.

    Raises:
        UserError: several ranks train and a batch norm is of a kind that cannot be synchronised.
    """
    for name, layer in module.named_modules():
        if type(layer) in _OURS:
            layer.__class__ = _OURS[type(layer)]  # same parameters, buffers and state; another forward
        elif world_size() > 1 and isinstance(layer, _BatchNorm) and not isinstance(layer, _SYNCHRONISED):
            reason = f"({type(layer).__name__}) cannot share batch statistics between processes"
            raise UserError(f"the layer {name} {reason}: choose another backbone, or train in one process")
    return module


def unsynchronise(module: nn.Module) -> nn.Module:
    """Make our batch norms normalise with this rank's rows alone, as torch's do; returns the same module."""
    theirs = {ours: torchs for torchs, ours in _OURS.items()}
    for layer in module.modules():
        if type(layer) in theirs:
            layer.__class__ = theirs[type(layer)]
    return module


def _summed(x: Tensor) -> Tensor:
    """The sum over ranks, as a new tensor."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0]).chunk(world_size())[rank()]


class _Sum(torch.autograd.Function):
    """The sum over ranks; every rank uses it, so its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])


def _synchronised(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm in training over all ranks' rows, in two passes (a one-pass variance cancels in float32)."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    local = x.numel() // x.shape[1]
    totals = _Sum.apply(torch.cat([wide.sum(dims), wide.new_full((1,), local)]))  # [C + 1]
    count = totals[-1].detach()
    mean_ = totals[:-1] / count
    centred = wide - mean_.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / count
    if norm.track_running_stats:
        _track(norm, mean_.detach(), variance.detach() * count / (count - 1))
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape)
        if norm.bias is not None:  # SimCLR's head scales and does not shift
            y = y + norm.bias.view(shape)
    return y.to(x.dtype)


@torch.no_grad()
def _track(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_: Tensor, unbiased: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    momentum = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean_.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
