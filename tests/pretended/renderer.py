"""The reference renderer in place of the Triton kernels, which a pretended GPU cannot run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretended.tensor import Pretend
from sslpipe.views import engine
from sslpipe.views.operations import ViewSpec
from sslpipe.views.render import choice, reference
from sslpipe.views.table import Table


def stand_in(replace: Callable[[Any, str, Any], object]) -> None:
    """Let it be chosen on a pretended GPU; `replace(owner, name, value)` sets an attribute for as long as is wanted."""
    real = choice.choose

    def choose(name: str, device: Any) -> Any:
        wanted = name in ("auto", "triton") and torch.device(device).type == "cuda"
        return ("triton", render) if wanted else real(name, device)

    replace(engine, "choose", choose)
    replace(choice, "choose", choose)


def render(pixels: Tensor, table: Table, spec: ViewSpec, out: Tensor | None = None) -> Tensor:
    """Reads canvases and writes views on this thread's stream, and waits for nothing, as the kernels do."""
    assert isinstance(pixels, Pretend), "canvases are not on the GPU"
    made = reference.render(pixels.elem, table, spec)
    if out is None:
        out = torch.empty(made.shape, device=pixels.device)
    assert isinstance(out, Pretend)
    pixels.memory.gpu.work(pixels.at, "render", [pixels.memory], [out.memory])
    out.elem.copy_(made)
    return out
