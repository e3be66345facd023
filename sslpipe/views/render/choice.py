"""The three renderers, and which of them to use."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import Protocol

import torch

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import nearest
from sslpipe.views.operations import ViewSpec
from sslpipe.views.render import reference
from sslpipe.views.table import Table

NAMES = ("reference", "cpu", "triton")


class Renderer(Protocol):
    """Makes pixels of parameters: `reference.render` defines what they are."""

    def __call__(
        self, pixels: torch.Tensor, table: Table, spec: ViewSpec, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(canvases uint8 [M, R, R, 3], table of N rows, spec) → [N, 3, S, S], normalised, in `out` if given."""
        ...


def choose(name: str, device: torch.device) -> tuple[str, Renderer]:
    """The renderer of this name, and the name that `auto` stands for: the fastest there is for the device.

    Raises:
        UserError: there is none of this name, or it cannot work on this device.
    """
    if name == "auto":
        name = _fastest(device)
    elif name not in NAMES:
        known = ["auto", *NAMES]
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else f"choose one of {', '.join(known)}"
        raise UserError(f"views.renderer: there is no renderer {name}; {hint}")
    elif name != "reference" and (reason := _missing(name, device)):
        raise UserError(f"views.renderer: {name} {reason}, or choose auto")
    if name == "reference":
        return name, reference.render
    if name == "cpu":
        from sslpipe.views.render import cpu

        return name, cpu.render
    from sslpipe.views.render import triton

    return name, triton.render


def describe(name: str) -> str:
    """A renderer in words, with what its last bit depends on."""
    compiler = {"cpu": "numba", "triton": "triton"}.get(name)
    return f"{name}, {compiler} {metadata.version(compiler)}" if compiler else name


def _fastest(device: torch.device) -> str:
    return next(
        (name for name in ("triton", "cpu") if _missing(name, device) is None),
        "reference",
    )


def _missing(name: str, device: torch.device) -> str | None:
    """Why a renderer cannot work on this device, and what would help; None if it can."""
    if name == "cpu":
        if device.type != "cpu":
            return f"makes views on the CPU, not on {device.type}: set pretrain.device to cpu"
        if importlib.util.find_spec("numba") is None:
            return "needs the package numba: run `make setup` or `pip install numba`"
        return None
    if device.type != "cuda":
        return f"makes views on a GPU, not on {device.type}: set pretrain.device to cuda"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton: run `make setup` or `pip install triton`"
    return None
