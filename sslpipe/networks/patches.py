"""Patches: images as rows of patches and back, their fixed positions, and keeping some of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # patches down and across


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[N, C, H, W] → [N, P, p·p·C]: patches row by row, a patch's numbers in MAE's order y, x, channel."""
    n, c, h, w = images.shape
    p = patch_size
    x = images.reshape(n, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, patch_size: int, grid: Grid | None = None) -> Tensor:
    """The inverse of `patchify`: [N, P, p·p·C] → [N, C, H, W]; a square grid unless told."""
    n, count, d = patches.shape
    p = patch_size
    h, w = grid or (round(count**0.5),) * 2
    x = patches.reshape(n, h, w, p, p, d // (p * p))
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, d // (p * p), h * p, w * p)


def take(tokens: Tensor, keep: Tensor) -> Tensor:
    """The kept tokens of each image: [N, P, D], int64 [N, K] → [N, K, D]."""
    return tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))


def as_maps(tokens: Tensor, images: Tensor, patch_size: int) -> Tensor:
    """The tokens of all patches of images [N, 3, H, W] as maps: [N, P, D] → [N, D, H / p, W / p]."""
    h, w = images.shape[2] // patch_size, images.shape[3] // patch_size
    return tokens.transpose(1, 2).unflatten(2, (h, w))


def sincos_positions(grid: Grid, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, [1, h·w, D] (MAE's: the first half encodes x, the second y).

    Frequencies fall geometrically from 1 to 1/10000; sines first, then cosines. `dim` is a multiple of 4.
    """
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))  # [D/4]
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in (x, y)]  # 2 × [P, D/4]
    parts = [f(angle) for angle in angles for f in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1).float()[None]


def resize_positions(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions for another grid, by bicubic interpolation: [1, h·w, D] → [1, h'·w', D]."""
    if old == new:
        return positions
    as_image = positions.reshape(1, *old, -1).permute(0, 3, 1, 2)
    return resized(as_image, new, antialias=True).permute(0, 2, 3, 1).flatten(1, 2)


def resized(maps: Tensor, size: Grid, *, antialias: bool = False, align_corners: bool = False) -> Tensor:
    """Maps [N, D, h, w] of another size, by bicubic interpolation.

    Their gradient is a product with the interpolation's matrix: torch's own is not the same every time on a GPU.
    """
    found: Tensor = _Resized.apply(maps, size, antialias, align_corners)
    return found


class _Resized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, size: Grid, antialias: bool, align_corners: bool) -> Tensor:
        ctx.old, ctx.settings = maps.shape[2:], (size, antialias, align_corners)
        return _bicubic(maps, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,), (h, w) = grads, ctx.old
        one_each = torch.eye(h * w, dtype=grad.dtype, device=grad.device).view(h * w, 1, h, w)
        matrix = _bicubic(one_each, *ctx.settings).flatten(1)  # [h·w, h'·w']
        return (grad.flatten(2) @ matrix.T).unflatten(2, (h, w)), None, None, None


def _bicubic(maps: Tensor, size: Grid, antialias: bool, align_corners: bool) -> Tensor:
    return F.interpolate(maps, size=size, mode="bicubic", antialias=antialias, align_corners=align_corners)
