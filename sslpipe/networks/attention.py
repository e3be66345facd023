"""Where a vision transformer looks: the attention of its last block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sslpipe.networks import vit
from sslpipe.networks.protocol import Backbone


@torch.no_grad()
def last_attention(backbone: Backbone, x: Tensor) -> Tensor | None:
    """How much of each patch goes into the image's vector, by the attention of the last block.

    The class token's attention to the patches where the vector is that token's (Caron et al. 2021, DINO, Fig. 1); the
    mean over all patches' attention where it is their average. Class tokens have a part, so rows sum to at most 1.

    Of images [N, 3, S, S], normalised, to float32 [N, H, h, w], a map a head; None for a network without attention in
    its last block, as CNNs. The backbone is in eval mode.
    """
    stack = backbone.blocks_and_norm()
    weights = None if stack is None else _weights(stack[0][-1], lambda: backbone.features(x))
    if weights is None:
        return None
    inner: Any = getattr(backbone, "network", backbone)
    asked = weights[:, :, 0] if inner.pool == "cls" else weights[:, :, inner.prefixes :].mean(2)  # [N, H, T]
    p = inner.patch_size
    return asked[:, :, inner.prefixes :].unflatten(2, (x.shape[2] // p, x.shape[3] // p)).float()


def _weights(block: nn.Module, run: Callable[[], Any]) -> Tensor | None:
    """Softmaxed attention [N, H, T, T] of a block while `run` is called."""
    found: list[Tensor] = []
    attention: Any = getattr(block, "attention", None) or getattr(block, "attn", None)
    if isinstance(attention, vit.Attention):
        with attention.register_forward_pre_hook(lambda module, given: found.append(module.weights(*given))):
            run()
    elif hasattr(attention, "attn_drop") and hasattr(attention, "fused_attn"):
        # timm's: what its dropout is given, which is the whole attention where no fused kernel computes it.
        fused, attention.fused_attn = attention.fused_attn, False
        try:
            with attention.attn_drop.register_forward_hook(lambda module, given, made: found.append(made)):
                run()
        finally:
            attention.fused_attn = fused
    return found[0] if found else None
