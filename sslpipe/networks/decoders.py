"""Decoders: hidden patches from visible ones (MAE), and numbers on a finer grid from maps (colorization)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core.distributed import BatchNorm2d
from sslpipe.networks import starts
from sslpipe.networks.patches import Grid, sincos_positions
from sslpipe.networks.vit import Block


class MAEDecoder(nn.Module):
    """MAE's decoder (He et al. 2022): a narrow transformer over visible tokens and mask tokens.

    Raises:
        UserError: `width` is not a multiple of 4 and of `heads`.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_dim: int,  # features of an encoder token
        grid: Grid,  # patches down and across
        patch_dim: int,  # numbers to predict a patch (p · p · 3 pixels)
        *,
        width: int = 512,  # features of a decoder token
        depth: int = 8,  # blocks
        heads: int = 16,  # of the attention
    ) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise UserError(
                f"the decoder's width must be a multiple of 4 and of its {heads} heads: it is {width}"
            )
        self.embed = nn.Linear(encoder_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(grid, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, patch_dim)
        starts.start(self, "mae", list(self.blocks))

    def forward(self, visible: Tensor, keep: Tensor) -> Tensor:
        """All patches, [N, P, patch_dim].

        Args:
            visible: the encoder's tokens, [N, C + K, D]: C class tokens (0 or 1) and then the kept patches.
            keep: int64 [N, K], which patches they are.
        """
        x = self.embed(visible)  # [N, C + K, W]
        classes, w = x.shape[1] - keep.shape[1], x.shape[2]
        everywhere = self.mask_token.to(x.dtype).expand(x.shape[0], self.positions.shape[1], w)  # [N, P, W]
        filled = everywhere.scatter(1, keep[:, :, None].expand(-1, -1, w), x[:, classes:])
        filled = filled + self.positions.to(x.dtype)
        t = torch.cat([x[:, :classes], filled], dim=1)  # [N, C + P, W]; the class token's position is 0
        for block in self.blocks:
            t = block(t)
        return self.predict(self.norm(t[:, classes:]))


class MapDecoder(nn.Module):
    """From a backbone's maps to `out_dim` numbers a cell of a finer grid (colorization): convolve, enlarge, convolve.

    `side` is the cells down and across, `width` the features between the convolutions.
    """

    def __init__(self, encoder_dim: int, out_dim: int, *, side: int, width: int = 256) -> None:
        super().__init__()
        self.side = side
        self.coarse, self.fine = _convolution(encoder_dim, width), _convolution(width, width)
        self.predict = nn.Conv2d(width, out_dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, D, h, w] → [N, out_dim, side, side]."""
        x = F.interpolate(self.coarse(maps), size=(self.side,) * 2, mode="bilinear", align_corners=False)
        return self.predict(self.fine(x))


def _convolution(channels: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, BatchNorm2d(width), nn.ReLU(inplace=True))
