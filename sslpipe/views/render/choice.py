"""The three renderers, and which of them to use."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from importlib import metadata

import torch

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import nearest

NAMES = ("reference", "cpu", "triton")
_NEEDS = {"cpu": ("cpu", "numba"), "triton": ("cuda", "triton")}  # the kind of device, and the package


#: (canvases, table, spec, where to write) → views; `reference.render` defines what they are.
Renderer = Callable[..., torch.Tensor]


def choose(name: str, device: torch.device) -> tuple[str, Renderer]:
    """The renderer of this name, and the name that `auto` stands for: the fastest there is for the device.

    Raises:
        UserError: there is none of this name, or it cannot work on this device.
    """
    if name == "auto":
        name = next((name for name in ("triton", "cpu") if _missing(name, device) is None), "reference")
    elif name not in NAMES:
        known = ["auto", *NAMES]
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else f"choose one of {', '.join(known)}"
        raise UserError(f"views.renderer: there is no renderer {name}; {hint}")
    elif reason := _missing(name, device):
        raise UserError(f"views.renderer: {name} {reason}, or choose auto")
    # Imported where it is chosen, since numba and triton may be missing.
    return name, importlib.import_module(f"sslpipe.views.render.{name}").render


def describe(name: str) -> str:
    """A renderer in words, with what its last bit depends on."""
    package = _NEEDS[name][1] if name in _NEEDS else None
    return f"{name}, {package} {metadata.version(package)}" if package else name


def _missing(name: str, device: torch.device) -> str | None:
    """Why a renderer cannot work on this device, and what would help; None if it can."""
    if name == "reference":
        return None
    kind, package = _NEEDS[name]
    if device.type != kind:
        where = "the CPU" if kind == "cpu" else "a GPU"
        return f"makes views on {where}, not on {device.type}: set pretrain.device to {kind}"
    if importlib.util.find_spec(package) is None:
        return f"needs the package {package}: run `make setup` or `pip install {package}`"
    return None
