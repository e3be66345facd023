"""Which patches of a view are hidden, and pictures of what a method does with patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslpipe.networks.patches import patchify, unpatchify
from sslpipe.views.view import View

GREY = 0.5  # where a patch is hidden
IMAGES = 16  # how many a sheet shows
SIDE = 112  # pixels a side that small images are enlarged to where patches are framed


def hidden_patches(view: View) -> tuple[Tensor, int]:
    """Which patches of a masked view are hidden, bool [N, P], and how many of one image are at most."""
    assert view.masks is not None
    assert view.hidden is not None
    return view.masks, view.hidden


def plain(pixels: Tensor, view: View) -> Tensor:
    """Pixels as they were before the view's normalisation: [n, 3, s, s] in [0, 1], in float32 at least.

    By numbers, since a tensor of them would make the host wait for a GPU.
    """
    wide = pixels if pixels.dtype == torch.float64 else pixels.float()
    channels = zip(wide.unbind(1), view.mean, view.std, strict=True)
    return torch.stack([x * std + mean for x, mean, std in channels], dim=1).clamp(0, 1)


def paste(images: Tensor, others: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Images [n, 3, s, s] with the patches of others where the mask [n, P] is true."""
    patches = torch.where(mask[:, :, None], patchify(others, patch_size), patchify(images, patch_size))
    return unpatchify(patches, patch_size)


def hide(images: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Images [n, 3, s, s] in [0, 1], grey where the mask [n, P] is true."""
    return paste(images, torch.full_like(images, GREY), mask, patch_size)


def reconstructions(view: View, prediction: Tensor, patch_size: int) -> Tensor:
    """A sheet of images, what of them is seen, and what is predicted, [n, P, p·p·3], in place of the hidden patches."""
    n = len(prediction)
    mask, original = hidden_patches(view)[0][:n], plain(view.pixels[:n], view)
    rebuilt = plain(unpatchify(prediction, patch_size), view)
    return sheet([original, hide(original, mask, patch_size), paste(original, rebuilt, mask, patch_size)])


def sheet(rows: Sequence[Tensor], gap: int = 0) -> Tensor:
    """Rows of n images each, [n, 3, s, s] in [0, 1], one below the other: uint8 [rows · s, n · s, 3].

    With a gap, s counts so many white pixels more, below each image and on its right.
    """
    strips = F.pad(torch.stack(list(rows), dim=1), (0, gap, 0, gap), value=1.0)  # [n, rows, 3, s, s]
    n, kinds, _, s, _ = strips.shape
    laid = strips.permute(1, 3, 0, 4, 2).reshape(kinds * s, n * s, 3)
    return (laid * 255).round().to(torch.uint8).cpu()


def enlarged(images: Tensor) -> Tensor:
    """Small images [n, 3, s, s] with each pixel as a square of pixels, so that frames hide little."""
    times = max(1, SIDE // images.shape[-1])
    return images.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


def frame(images: Tensor, grid: tuple[int, int], shown: Tensor, colours: Tensor) -> Tensor:
    """Images [n, 3, s, s] with frames around those patches of a grid that are shown, bool [n, P].

    `grid` is patches down and across; `colours`, [n, P, 3] or [P, 3], are in [0, 1], as the images are.
    """
    patch, depth = _layout(grid, images)
    edge = shown[:, patch] & (depth < max(1, images.shape[-1] // max(grid) // 8))  # [n, s, s]
    colour = colours.expand(*shown.shape, 3)[:, patch].permute(0, 3, 1, 2)  # [n, 3, s, s]
    return torch.where(edge[:, None], colour, images)


def heat(images: Tensor, grid: tuple[int, int], values: Tensor) -> Tensor:
    """Images [n, 3, s, s] tinted by a value of each patch, [n, P]: an image's least is blue, its greatest red."""
    least, greatest = values.aminmax(dim=1, keepdim=True)
    red = (values - least) / (greatest - least).clamp(min=1e-6)  # [n, P]
    colour = torch.stack([red, torch.zeros_like(red), 1 - red], dim=1)  # [n, 3, P]
    return (images + colour[:, :, _layout(grid, images)[0]]) / 2


def _layout(grid: tuple[int, int], images: Tensor) -> tuple[Tensor, Tensor]:
    """For each pixel its patch, and how many pixels its middle is away from that patch's border: [s, s] each."""
    side = images.shape[-1]
    middle = torch.arange(side, device=images.device) + 0.5
    middles = [middle * count / side for count in grid]  # in patches
    down, across = ((0.5 - (x.frac() - 0.5).abs()) * side / n for x, n in zip(middles, grid, strict=True))
    patch = middles[0].long()[:, None] * grid[1] + middles[1].long()
    return patch, torch.minimum(down[:, None], across)
