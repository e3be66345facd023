"""Relative positions as BEiT's transformer has them: a learned bias of attention for each offset of two patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslpipe.networks.patches import Grid, resized

_OTHERS = 3  # class token to patch, patch to class token, class token to itself: the last rows of the table


def entries(grid: Grid) -> int:
    """Rows of the table: (2h - 1)(2w - 1) offsets and three for the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + _OTHERS


def relative_bias(
    table: Tensor, square: Grid, grid: Grid, *, keep: Tensor | None = None, class_token: bool = True
) -> Tensor:
    """What is added to the attention of each pair of tokens (as in BEiT's official code), a row a query.

    [1, H, T, T], or [N, H, T, T] where patches are kept.

    Args:
        table: [entries(square), H], a column a head.
        square: the grid that the table is for.
        grid: that of the images at hand; the table is interpolated if it differs.
        keep: int64 [N, K], the patches each image keeps, in their order.
        class_token: whether one comes before the patches; it counts among the T tokens.
    """
    bias = _resized(table, square, grid)[_index(grid, table.device)]  # [1 + P, 1 + P, H]
    if not class_token:
        bias = bias[1:, 1:]
    if keep is None:
        return bias.permute(2, 0, 1)[None]
    if class_token:
        keep = F.pad(keep + 1, (1, 0))  # the class token is kept, as token 0
    return bias[keep[:, :, None], keep[:, None, :]].permute(0, 3, 1, 2)


def _index(grid: Grid, device: torch.device) -> Tensor:
    """The table's row for each pair (query, key), int64 [1 + P, 1 + P]."""
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    y, x = y.flatten(), x.flatten()  # [P]
    down, across = y[:, None] - y + h - 1, x[:, None] - x + w - 1  # [P, P], from 0
    index = F.pad(down * (2 * w - 1) + across, (1, 0, 1, 0))
    index[0, :], index[:, 0], index[0, 0] = entries(grid) - 3, entries(grid) - 2, entries(grid) - 1
    return index


def _resized(table: Tensor, square: Grid, grid: Grid) -> Tensor:
    """The table for another grid, offsets interpolated so that the outermost stay the outermost."""
    if square == grid:
        return table
    offsets, others = table[:-_OTHERS], table[-_OTHERS:]
    as_image = offsets.T.reshape(1, -1, 2 * square[0] - 1, 2 * square[1] - 1)
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    return torch.cat([resized(as_image, size, align_corners=True).flatten(2)[0].T, others])
