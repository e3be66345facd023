"""Where a view's pixels come from, as one affine map a view, and which patches of two views meet."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sslpipe.views.table import Table
from sslpipe.views.view import View


def to_canvas(table: Table, size: int) -> NDArray[np.float64]:
    """The maps from views of size x size pixels to their canvases.

    Points are (x, y), x to the right and y down; whole numbers are the centres of pixels on both sides.
    Resampling is taken as its geometry alone: where the centre of an output pixel lies.

    Returns:
        [N, 2, 3]: a view's point (x, y) lies at `map @ (x, y, 1)`.
    """
    top, left, height, width = table.box.T.astype(np.float64)
    # Read from the view inwards: edge coordinates in [0, size], about the centre, turned back, flipped back,
    # scaled to the box, rotated back, moved to the box's centre, and back to pixel centres.
    quarter = table.turns.astype(np.float64) * (np.pi / 2)
    flip = np.stack((1.0 - 2 * table.hflip, 1.0 - 2 * table.vflip), axis=1)  # [N, 2]
    scale = np.stack((width, height), axis=1) / size
    linear = _rotation(np.deg2rad(table.angle.astype(np.float64))) @ (
        (scale * flip)[:, :, None] * np.rint(_rotation(quarter))
    )
    centre = np.stack((left + width / 2, top + height / 2), axis=1) - 0.5
    offset = centre - linear @ np.full(2, (size - 1) / 2)
    return np.concatenate((linear, offset[:, :, None]), axis=2)


def _rotation(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 2, 2] from a point of the turned picture to the same point before; counter-clockwise, y down."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack((np.stack((cos, -sin), axis=1), np.stack((sin, cos), axis=1)), axis=1)


def matches(a: View, b: View, grid: int | tuple[int, int]) -> torch.Tensor:
    """For each patch of view a, the patch of view b that holds its centre.

    Args:
        a, b: views of the same images, of any size, both divided into the patches of `grid`.
        grid: patches along each side, or (rows, columns).

    Returns:
        int64 [N, P], P = rows · columns row by row: the patch of b, -1 where the centre falls outside b.
    """
    if not _same_memory(a.index, b.index) and not torch.equal(a.index, b.index):  # which waits for the device
        raise ValueError("matches needs two views of the same images in the same order")
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    device = a.pixels.device
    along = torch.arange(2, dtype=torch.float64, device=device)  # made there: a copy from the host would wait
    cells = columns + (rows - columns) * along  # [2] in the order (x, y)
    side_a, side_b = a.pixels.shape[-1], b.pixels.shape[-1]
    place = torch.arange(rows * columns, device=device)
    cell = torch.stack((place % columns, place // columns), dim=1)  # [P, 2]
    centre = (cell + 0.5) * (side_a / cells) - 0.5  # [P, 2] in pixels of a
    map_a, map_b = a.to_canvas.double(), b.to_canvas.double()
    point = centre @ map_a[:, :, :2].mT + map_a[:, None, :, 2]  # [N, P, 2] on the canvas
    inverse = torch.linalg.inv_ex(map_b[:, :, :2]).inverse  # never singular, so nothing waits for a check
    point = (point - map_b[:, None, :, 2]) @ inverse.mT  # [N, P, 2] in pixels of b
    found = torch.floor((point + 0.5) * (cells / side_b)).long()
    inside = ((found >= 0) & (found < cells)).all(dim=-1)
    return torch.where(inside, found[..., 1] * columns + found[..., 0], -1)


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())
