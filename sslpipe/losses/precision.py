"""Full precision for losses: half-precision inputs are widened and autocast is off inside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a loss compute in float32 under autocast and on half-precision tensors; float64 stays float64."""

    @functools.wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        widened = [_widen(value) for value in args]
        named = {name: _widen(value) for name, value in kwargs.items()}
        with torch.autocast(_device_type([*widened, *named.values()]), enabled=False):
            return loss(*widened, **named)

    return computed


@full_precision
def unit(x: Tensor) -> Tensor:
    """The rows of x [N, D], each of length 1."""
    return F.normalize(x, dim=1)


@full_precision
def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Products of rows, [N, D] and [M, D] → [N, M]. SwAV's ε magnifies the errors of half precision twenty times."""
    return a @ b.T


def _widen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_widen(item) for item in value]
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _device_type(values: list[Any]) -> str:
    firsts = [value[0] if isinstance(value, list) and value else value for value in values]
    # Autocast knows no meta device.
    return next((x.device.type for x in firsts if isinstance(x, Tensor) and not x.is_meta), "cpu")
