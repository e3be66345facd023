"""What a vision transformer's weights are before training, as the official codes have it: `start(network, name)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError

_STD = 0.02


def start(network: nn.Module, name: str, blocks: Sequence[nn.Module]) -> None:
    """Draw the weights of a vision transformer: its linear layers, its patch embedding, its tokens and positions.

    - `mae`: Xavier-uniform linear layers, the patch embedding as one of them; tokens and positions normal(.02). MAE's
      models_mae.py, but that the patch embedding's bias starts at 0 instead of at random.
    - `moco`: the same, but queries, keys and values are each a matrix of their own, and the class token is nearly 0
      (MoCo v3's vits.py). The frozen patch embedding is uniform in ±√(6 / (3p² + D)): ±.0625 of a ViT-B/16.
    - `beit`: all normal(.02) cut off at ±.02, and the last layers of block l's attention and MLP divided by √(2l)
      (BEiT's modeling_pretrain.py, SimMIM's simmim.py). timm's own BEiTs are cut off at ±2, so 1.9 times as large.

    Args:
        blocks: its blocks, in order; the start `beit` finds `attn.proj` or `attention.out`, and the MLP, in each.

    Raises:
        UserError: another name.
    """
    if name not in STARTS:
        raise UserError(f"a vision transformer's start is {name!r}: choose one of {', '.join(STARTS)}")
    with torch.no_grad():
        STARTS[name](network, blocks)


def _mae(network: nn.Module, blocks: Sequence[nn.Module]) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith(("cls_token", "mask_token", "pos_embed")):
            nn.init.normal_(parameter, std=_STD)
    for weight in _matrices(network):
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))


def _moco(network: nn.Module, blocks: Sequence[nn.Module]) -> None:
    _mae(network, blocks)
    for name, parameter in network.named_parameters():
        if name.endswith("cls_token"):
            nn.init.normal_(parameter, std=1e-6)
        if name.endswith("qkv.weight"):
            for matrix in parameter.chunk(3):  # [D, D] each
                nn.init.xavier_uniform_(matrix)


def _beit(network: nn.Module, blocks: Sequence[nn.Module]) -> None:
    tokens = ("cls_token", "mask_token", "pos_embed")
    drawn = [parameter for name, parameter in network.named_parameters() if name.endswith(tokens)]
    for weight in [*drawn, *_matrices(network)]:
        nn.init.trunc_normal_(weight, std=_STD, a=-_STD, b=_STD)
    for layer, block in enumerate(blocks, start=1):
        for weight in _residual_outputs(block):
            weight.div_(sqrt(2 * layer))


STARTS: dict[str, Callable[[nn.Module, Sequence[nn.Module]], None]] = {
    "mae": _mae,
    "moco": _moco,
    "beit": _beit,
}


def _matrices(network: nn.Module) -> list[Tensor]:
    """The weights of all linear layers and convolutions, whose biases become 0."""
    found = []
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            found.append(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return found


def _residual_outputs(block: nn.Module) -> list[Tensor]:
    """The last linear layers of a block's attention and of its MLP, whose outputs are added to the residual."""
    last = {}
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear):
            last[name.partition(".")[0]] = module.weight  # "attn" or "attention", and "mlp"
    return list(last.values())
