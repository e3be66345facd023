"""Networks: backbones, heads, momentum copies and decoders."""

from sslpipe.networks.build import backbone
from sslpipe.networks.decoders import MAEDecoder
from sslpipe.networks.heads import mlp
from sslpipe.networks.momentum import Momentum, cosine_momentum
from sslpipe.networks.patches import patchify, unpatchify
from sslpipe.networks.protocol import Backbone
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
