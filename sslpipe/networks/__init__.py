"""Networks: backbones, heads, momentum copies and decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslpipe.networks.backbones import Backbone, backbone
    from sslpipe.networks.decoders import MAEDecoder
    from sslpipe.networks.heads import mlp
    from sslpipe.networks.momentum import Momentum, cosine_momentum
    from sslpipe.networks.patches import patchify, unpatchify
    from sslpipe.networks.queue import Queue
    from sslpipe.networks.tokenizer import Tokenizer

__all__ = [
    "Backbone",
    "MAEDecoder",
    "Momentum",
    "Queue",
    "Tokenizer",
    "backbone",
    "cosine_momentum",
    "mlp",
    "patchify",
    "unpatchify",
]

_HOMES = {
    "Backbone": "backbones",
    "MAEDecoder": "decoders",
    "Momentum": "momentum",
    "Queue": "queue",
    "Tokenizer": "tokenizer",
    "backbone": "backbones",
    "cosine_momentum": "momentum",
    "mlp": "heads",
    "patchify": "patches",
    "unpatchify": "patches",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"sslpipe.networks.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
