"""Weights of transformers' vision layers, copied into ours."""

from __future__ import annotations

import torch
from torch import nn

from sslpipe.networks.vit import Block


def copy_layers(blocks: nn.ModuleList, layers: nn.ModuleList) -> None:
    """An encoder's or a decoder's; BEiT's layers have scales, and no bias of the keys."""
    for block, layer in zip(blocks, layers, strict=True):
        assert isinstance(block, Block)
        attention = [getattr(layer.attention, name) for name in ("q_proj", "k_proj", "v_proj")]
        weights = {
            "norm1": layer.layernorm_before,
            "norm2": layer.layernorm_after,
            "attention.out": layer.attention.o_proj,
            "mlp.0": layer.mlp.fc1,
            "mlp.2": layer.mlp.fc2,
        }
        state = {
            f"{name}.{key}": value
            for name, part in weights.items()
            for key, value in part.state_dict().items()
        }
        state["attention.qkv.weight"] = torch.cat([part.weight for part in attention])
        state["attention.qkv.bias"] = torch.cat(
            [
                part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias
                for part in attention
            ]
        )
        if block.scale1 is not None:
            state |= {"scale1": layer.lambda_1, "scale2": layer.lambda_2}
        block.load_state_dict(state)
