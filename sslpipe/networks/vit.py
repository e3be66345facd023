"""`small_vit`: a plain pre-norm vision transformer (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.networks import starts
from sslpipe.networks.patches import resize_positions, sincos_positions, take
from sslpipe.networks.protocol import Transformer, check_patch_size
from sslpipe.networks.relative import entries, relative_bias


class SmallViT(Transformer):
    """A vision transformer; width 768, depth 12, heads 12 and patch size 16 make it ViT-B/16.

    Its positions are "sincos" (fixed, as MAE's), "learned", or "relative": none is added to patches, all blocks share
    a learned bias of attention for each offset (BEiT, SimMIM).
    """

    pos_embed: Tensor | None

    def __init__(
        self,
        image_size: int,  # side of the images, pixels; for others that can be fed, positions are interpolated
        width: int = 128,  # features a token
        depth: int = 6,  # blocks
        heads: int = 4,  # of the attention
        patch_size: int = 4,  # side of a patch, pixels
        position: str = "sincos",
        pool: str = "mean",  # "mean" of the patches or the "cls" token, after the last norm
        class_token: bool = True,
        drop_path: float = 0.0,  # chance that a block is skipped in training, rising linearly from 0 to this
        layer_scale: float | None = None,  # start of a learned scale of each residual branch (BEiT: .1)
        start: str = "mae",  # what the weights are before training: see `starts.start`
    ) -> None:
        super().__init__()
        check_patch_size("small_vit", image_size, patch_size)
        _check(width, depth, heads, position, pool, class_token, drop_path)
        self.name, self.image_size, self.dim, self.patch_size = "small_vit", image_size, width, patch_size
        self.pool, self.class_token, self.prefixes = pool, class_token, int(class_token)
        side = image_size // patch_size
        self.square = (side, side)  # the grid that the positions are for
        self.patch_embed = nn.Conv2d(3, width, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width), requires_grad=False)
        # The class token has no position: a learned one would only be a second bias beside the token itself.
        if position == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, side * side, width))
        else:
            fixed = sincos_positions(self.square, width) if position == "sincos" else None
            self.register_buffer("pos_embed", fixed, persistent=False)
        relative = position == "relative"
        self.pos_bias = nn.Parameter(torch.zeros(entries(self.square), heads)) if relative else None
        chances = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, chance, layer_scale) for chance in chances)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        starts.start(self, start, list(self.blocks))

    def blocks_and_norm(self) -> tuple[Sequence[nn.Module], nn.Module]:
        """See `Backbone.blocks_and_norm`."""
        return list(self.blocks), self.norm

    def _encode(self, x: Tensor, keep: Tensor | None, mask: Tensor | None) -> Tensor:
        patches = self.patch_embed(x)  # [N, D, h, w]
        grid = (patches.shape[2], patches.shape[3])
        t = patches.flatten(2).transpose(1, 2)  # [N, P, D]
        if mask is not None:
            t = torch.where(mask[:, :, None], self.mask_token.to(t.dtype), t)
        if self.pos_embed is not None:
            t = t + resize_positions(self.pos_embed, self.square, grid).to(t.dtype)
        if keep is not None:
            t = take(t, keep)  # [N, K, D]
        if self.cls_token is not None:
            t = torch.cat([self.cls_token.to(t.dtype).expand(t.shape[0], -1, -1), t], dim=1)  # [N, 1 + K, D]
        bias = None
        if self.pos_bias is not None:
            bias = relative_bias(self.pos_bias, self.square, grid, keep=keep, class_token=self.prefixes > 0)
        for block in self.blocks:
            t = block(t, bias)
        return self.norm(t)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer decay as MAE's and BEiT's: all before the blocks, then each block.

        What is not named is in one last layer with the head: the norm, and relative positions that all blocks share.
        """
        return {"stem": r"^(?:cls_token|mask_token|pos_embed|patch_embed)", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Tokens and positions are not decayed."""
        return {"cls_token", "mask_token", "pos_embed"}


class Block(nn.Module):
    """Attention, then an MLP of four times the width; norms come first, residuals around both."""

    def __init__(
        self, width: int, heads: int, drop_path: float = 0.0, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = drop_path
        scaled = layer_scale is not None
        self.scale1 = nn.Parameter(torch.full((width,), float(layer_scale or 0))) if scaled else None
        self.scale2 = nn.Parameter(torch.full((width,), float(layer_scale or 0))) if scaled else None

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[N, T, D] → [N, T, D]; `bias` is added to the attention, see `Attention`."""
        x = x + self._branch(self.attention(self.norm1(x), bias), self.scale1)
        return x + self._branch(self.mlp(self.norm2(x)), self.scale2)

    def _branch(self, y: Tensor, scale: Tensor | None) -> Tensor:
        if scale is not None:
            y = y * scale
        if self.drop_path and self.training:
            kept = 1.0 - self.drop_path
            # One draw an image (Huang et al. 2016); the kept are scaled up so that the mean stays.
            y = y * (y.new_empty(y.shape[0], 1, 1).bernoulli_(kept) / kept)
        return y


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[N, T, D] → [N, T, D]; `bias`, [1 or N, H, T, T], is added before the softmax."""
        q, k, v = self._heads(x)
        return self.out(attend(q, k, v, bias).transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """What `forward` weighs values by, float32 [N, H, T, T]: softmax(q kᵀ / √d + bias)."""
        q, k, _ = self._heads(x).float()
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return (logits if bias is None else logits + bias.float()).softmax(-1)

    def _heads(self, x: Tensor) -> Tensor:
        """q, k and v, [3, N, H, T, D/H]."""
        return self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v: [N, H, T, d] each, `bias` [1 or N, H, T, T].

    In half precision a CPU computes it in float32: torch's bfloat16 gradient of attention is seven times slower
    there, and costs more than all the matrix products of a small transformer together.
    """
    if q.device.type != "cpu" or q.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))
    with torch.autocast("cpu", enabled=False):
        wide = None if bias is None else bias.float()
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), wide).to(q.dtype)


def _check(width: int, depth: int, heads: int, position: str, pool: str, cls: bool, drop_path: float) -> None:
    if position not in ("sincos", "learned", "relative"):
        raise UserError(f"small_vit's position is {position!r}: choose 'sincos', 'learned' or 'relative'")
    if pool not in ("mean", "cls"):
        raise UserError(f"small_vit's pool is {pool!r}: choose 'mean' or 'cls'")
    if pool == "cls" and not cls:
        raise UserError("small_vit pools the class token, so class_token must be true (or pool 'mean')")
    if min(width, depth, heads) < 1 or width % heads or width % 4:
        rule = "small_vit's width must be a multiple of 4 and of its heads, and its depth at least 1"
        raise UserError(f"{rule}: got width {width}, heads {heads}, depth {depth}")
    if not 0 <= drop_path < 1:
        raise UserError(f"small_vit's drop_path is {drop_path}: it is a chance, from 0 to below 1")
