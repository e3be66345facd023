"""Networks: backbones, heads, momentum copies and decoders."""

from sslpipe.networks.build import backbone
from sslpipe.networks.protocol import Backbone

__all__ = ["Backbone", "backbone"]
