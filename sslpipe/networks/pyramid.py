"""Feature maps at several resolutions of any backbone, and of images larger than it was made for."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.networks.protocol import Backbone


def pyramid(backbone: Backbone, x: Tensor, levels: int) -> list[Tensor]:
    """The last feature map of each of the last resolutions, the largest first.

    A CNN takes images [N, 3, H, W] of any size, and gives `levels` maps [N, D, h, w] at most, counted from the end. A
    vision transformer, whose positions are for its own size, sees the image in tiles of that size, and gives one map.

    Raises:
        UserError: a transformer cannot tile the images.
    """
    if backbone.patch_size is not None:
        return [tiled(backbone, x)]
    found: dict[tuple[int, int], Tensor] = {}

    def keep(module: nn.Module, given: Any, made: Any) -> None:
        if isinstance(made, Tensor) and made.ndim == 4:
            size = (made.shape[2], made.shape[3])
            found.pop(size, None)  # in the order in which resolutions come last
            found[size] = made

    with ExitStack() as hooks:
        for module in backbone.modules():
            hooks.enter_context(module.register_forward_hook(keep))
        last = backbone.maps(x)
    found[last.shape[2], last.shape[3]] = last
    smaller = [m for size, m in sorted(found.items(), reverse=True) if size[0] < x.shape[2]]
    return smaller[-levels:]


def tiled(backbone: Backbone, x: Tensor) -> Tensor:
    """Maps of images cut into tiles of the backbone's size and laid together again: [N, 3, H, W] → [N, D, h, w]."""
    side, (n, _, height, width) = backbone.image_size, x.shape
    if height % side or width % side:
        reason = f"{height} by {width} cannot be cut into such tiles"
        raise UserError(f"{backbone.name} sees images of {side} pixels: {reason}")
    rows, columns = height // side, width // side
    tiles = x.unflatten(2, (rows, side)).unflatten(4, (columns, side))  # [N, 3, r, S, c, S]
    maps = backbone.maps(tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))  # [N·r·c, D, h, w]
    maps = maps.unflatten(0, (n, rows, columns)).permute(0, 3, 1, 4, 2, 5)  # [N, D, r, h, c, w]
    return maps.flatten(4, 5).flatten(2, 3).contiguous()


def hypercolumns(maps: list[Tensor]) -> Tensor:
    """Maps of several resolutions as one of the largest, side by side (Hariharan et al. 2015): [N, ΣD, h, w]."""
    size = maps[0].shape[2:]
    grown = [nn.functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:]]
    return torch.cat([maps[0], *grown], dim=1)
