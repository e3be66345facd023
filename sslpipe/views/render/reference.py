"""Rendering in plain torch: the definition of right, and fast enough to train with.

Given the table, a view equals torchvision.transforms.v2.functional applied to its image alone in float32
(tests/parity): resizing and blurring are linear maps along each axis, so a batch of them with different
parameters is a batch of matrix products; colour operations run over the samples that drew them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sslpipe.core.device import to_device
from sslpipe.views.operations import ViewSpec
from sslpipe.views.table import Table

# Float canvases in work at once: on a CPU what its caches hold, on a GPU enough to keep it busy.
_CHUNK_BYTES = {"cpu": 8 << 20, "other": 1 << 30}


@torch.no_grad()
def render(pixels: Tensor, table: Table, spec: ViewSpec, out: Tensor | None = None) -> Tensor:
    """Render one view for each row of a table.

    Args:
        pixels: uint8 [M, R, R, 3] canvases.
        table: N rows; `source` says which canvas.
        spec: what the table was drawn for.
        out: where to write, [N, 3, S, S] of any floating type and memory format; by default a new float32
            tensor. Work is done in float32, and rounded to the nearest where `out` holds less.

    Returns:
        `out`, normalised, on the device of `pixels`.
    """
    if out is None:
        out = torch.empty(len(table), 3, spec.size, spec.size, device=pixels.device)
    mean, std = (to_device(torch.tensor(v), pixels.device)[:, None, None] for v in (spec.mean, spec.std))
    budget = _CHUNK_BYTES.get(pixels.device.type, _CHUNK_BYTES["other"])
    rows = max(1, budget // (12 * pixels.shape[1] * pixels.shape[2]))
    with exact(pixels.device):
        for start in range(0, len(table), rows):
            part = slice(start, start + rows)
            out[part] = _render(pixels, table[part], spec).sub_(mean).div_(std)
    return out


def _render(pixels: Tensor, table: Table, spec: ViewSpec) -> Tensor:
    """[n, 3, S, S] in [0, 1]."""
    x = unit(pixels[_tensor(table.source, pixels)])  # [n, 3, R, R]
    area: Tensor | None = _area(table, x)  # the image on its canvas; None once x is all image
    for step in spec.order:
        if step == "crop":
            x, area = _crop(x, area, table, spec), None
        else:
            _STEPS[step](x, area, table, spec)
    return x


def unit(pixels: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W] in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Matrix products in full float32, whatever training has chosen (autocast, TF32, bfloat16)."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    chosen = [backend.fp32_precision for backend in backends]
    loose = [pair for pair in zip(backends, chosen, strict=True) if pair[1] in ("tf32", "bf16")]
    for backend, _ in loose:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, value in loose:
            backend.fp32_precision = value


def _crop(x: Tensor, area: Tensor | None, table: Table, spec: ViewSpec) -> Tensor:
    """Rotate, crop, resize, flip and turn: [n, 3, R, R] → [n, 3, S, S]."""
    top, left, height, width = _tensor(table.box.astype(np.int64), x).unbind(dim=1)
    if spec.rotation:
        assert area is not None
        x = _rotate(x, area, table, spec.fill)  # the crop now lies in the corner
        top, left = torch.zeros_like(top), torch.zeros_like(left)
    rows = resize_taps(top, height, spec.size, x.shape[2], spec.interpolation)
    columns = resize_taps(left, width, spec.size, x.shape[3], spec.interpolation)
    # A flipped picture is one whose rows (or columns) are asked for from the other end.
    rows = torch.where(_tensor(table.vflip, x)[:, None, None], rows.flip(1), rows)
    columns = torch.where(_tensor(table.hflip, x)[:, None, None], columns.flip(1), columns)
    x = along_axes(x, rows, columns).clamp_(0, 1)  # bicubic overshoots
    for quarters in (1, 2, 3):
        turn = partial(torch.rot90, k=quarters, dims=(2, 3))
        _change(x, table.turns == quarters, lambda part, rows, turn=turn: turn(part))  # type: ignore[misc]
    return x


def along_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Two linear maps, one along each axis: [N, C, H, W], rows [N, S, H] and columns [N, T, W] → [N, C, S, T]."""
    n, channels, height, width = x.shape
    x = torch.bmm(x.reshape(n, channels * height, width), columns.mT)
    return torch.matmul(rows[:, None], x.view(n, channels, height, -1))


def resize_taps(start: Tensor, length: Tensor, size: int, extent: int, interpolation: str) -> Tensor:
    """Antialiased resizing of a piece of a line as a matrix.

    Distances are rounded to float32 where ATen's `upsample_*2d_aa` rounds them: weights computed in float64
    throughout end up to 1.4e-5 away from torchvision's.

    Args:
        start, length: int64 [N], the piece's first pixel, and its pixels; taps never reach beyond it.
        size: pixels it is resized to.
        extent: pixels of the whole line.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 [N, size, extent].
    """
    scale = (length.float() / size)[:, None, None]  # input pixels per output pixel
    stretch = scale.clamp(min=1)  # the filter widens only where the picture shrinks
    middle = torch.arange(size, device=start.device, dtype=torch.float64)[:, None] + 0.5
    centre = (scale.double() * middle).float()  # [N, size, 1]
    place = (torch.arange(extent, device=start.device) - start[:, None]).float()[:, None]  # [N, 1, extent]
    distance = (((place - centre).double() + 0.5) * (1 / stretch).double()).float().abs()
    weight = (1 - distance).clamp_(min=0) if interpolation == "bilinear" else _cubic(distance)
    weight = weight.masked_fill_((place < 0) | (place >= length[:, None, None]), 0)
    return weight / weight.sum(dim=-1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2, at distances from 0 on."""
    distance = distance.clamp(max=2)  # where it ends at 0
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far)


def _rotate(x: Tensor, area: Tensor, table: Table, fill: float) -> Tensor:
    """[n, 3, R, R] → [n, 3, max height, max width]: each crop of the picture rotated about the crop's centre.

    As torchvision's `rotate(image, angle, BILINEAR, center, fill)`, which weighs a border pixel twice by the
    fraction of it that is image.
    """
    height, width = int(table.box[:, 2].max()), int(table.box[:, 3].max())
    top, left, h, w = _tensor(table.box.astype(np.float32), x)[:, :, None, None].unbind(dim=1)  # [n, 1, 1]
    radians = np.deg2rad(table.angle.astype(np.float64))
    cos, sin = (_tensor(f(radians).astype(np.float32), x)[:, None, None] for f in (np.cos, np.sin))
    dy = torch.arange(height, device=x.device)[:, None] + 0.5 - h / 2
    dx = torch.arange(width, device=x.device) + 0.5 - w / 2
    there = torch.stack((cos * dx - sin * dy + (left + w / 2), sin * dx + cos * dy + (top + h / 2)), dim=-1)
    grid = there * (2 / x.shape[-1]) - 1  # [n, height, width, (x, y)], edges of the canvas at ±1
    sampled = functional.grid_sample(torch.cat((x * area, area), dim=1), grid, align_corners=False)
    colour, fraction = sampled[:, :3], sampled[:, 3:]
    return (colour - fill) * fraction + fill


def _area(table: Table, x: Tensor) -> Tensor:
    """[n, 1, R, R], 1 on the image and 0 on the rest of its canvas."""
    height, width = _tensor(table.size, x)[:, :, None, None].unbind(dim=1)  # [n, 1, 1]
    line = torch.arange(x.shape[-1], device=x.device)
    return ((line[:, None] < height) & (line < width)).to(x.dtype)[:, None]


def grey(x: Tensor) -> Tensor:
    """[N, 3, H, W] → luma [N, 1, H, W], with the weights of ITU-R BT.601 as torchvision rounds them."""
    red, green, blue = x.unbind(dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def brightness(x: Tensor, factor: Tensor, area: Tensor | None = None) -> Tensor:
    """Scale by factor [N, 1, 1, 1]."""
    return (x * factor).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor, area: Tensor | None = None) -> Tensor:
    """Move away from each image's mean luma, taken over its `area`."""
    luma = grey(x)
    if area is None:
        mean = luma.mean(dim=(2, 3), keepdim=True)
    else:
        mean = (luma * area).sum(dim=(2, 3), keepdim=True) / area.sum(dim=(2, 3), keepdim=True)
    return _blend(x, mean, factor)


def saturation(x: Tensor, factor: Tensor, area: Tensor | None = None) -> Tensor:
    """Move away from each pixel's luma."""
    return _blend(x, grey(x), factor)


def hue(x: Tensor, shift: Tensor, area: Tensor | None = None) -> Tensor:
    """Turn the colour wheel of HSV by `shift` turns; value and chroma stay."""
    red, green, blue = x.unbind(dim=1)
    value, low = x.amax(dim=1), x.amin(dim=1)
    chroma = value - low
    divisor = chroma.masked_fill(chroma == 0, 1)
    sector = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sector = torch.where(value == red, (green - blue) / divisor, sector) + 6 * shift[:, 0]  # sixths of a turn
    channels = []
    for offset in (5, 3, 1):  # each channel is a trapezoid of the sector
        k = (sector + offset).remainder_(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of [N, C, S, S] with sigma [N] in pixels, `kernel` taps and mirrored borders."""
    size, half = x.shape[-1], kernel // 2
    tap = torch.arange(-half, half + 1, device=x.device)
    weight = torch.softmax(-0.5 * (tap / sigma[:, None]) ** 2, dim=1)  # [N, K]
    place = torch.arange(size, device=x.device)[:, None] + tap  # [S, K]
    place = (size - 1) - ((size - 1) - place.abs()).abs()
    taps = x.new_zeros(len(x), size, size)
    taps.scatter_add_(2, place.expand(len(x), -1, -1), weight[:, None].expand(-1, size, -1))
    return along_axes(x, taps, taps)


def _jitter(x: Tensor, area: Tensor | None, table: Table, spec: ViewSpec) -> None:
    """The four adjustments in each sample's own order; at each step, each over the samples that are at it."""
    if spec.jitter is None:
        return
    for step in range(4):
        for kind, strength in enumerate(spec.jitter.strengths):
            if strength == 0:
                continue

            def adjust(part: Tensor, rows: NDArray[np.int64], kind: int = kind) -> Tensor:
                inside = None if area is None else area[_tensor(rows, x)]
                factor = _tensor(table.factors[rows, kind], x)[:, None, None, None]
                return _ADJUSTMENTS[kind](part, factor, inside)

            _change(x, table.jitter & (table.order[:, step] == kind), adjust)


def _grey(x: Tensor, area: Tensor | None, table: Table, spec: ViewSpec) -> None:
    _change(x, table.grey, lambda part, rows: grey(part).expand_as(part))


def _blur(x: Tensor, area: Tensor | None, table: Table, spec: ViewSpec) -> None:
    _change(x, table.sigma > 0, lambda part, rows: blur(part, _tensor(table.sigma[rows], part), spec.kernel))


def _solarize(x: Tensor, area: Tensor | None, table: Table, spec: ViewSpec) -> None:
    _change(x, table.solarize, lambda part, rows: torch.where(part >= 0.5, 1 - part, part))


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).add_(other * (1 - factor)).clamp_(0, 1)


#: In the order of `Jitter.strengths`; (pixels, factors [N, 1, 1, 1], area of the image on its canvas) → pixels.
_ADJUSTMENTS = (brightness, contrast, saturation, hue)
#: Each step but the crop; (pixels, area of the image on its canvas, table, spec) changes the pixels in place.
_STEPS = {"jitter": _jitter, "grey": _grey, "blur": _blur, "solarize": _solarize}


def _change(
    x: Tensor, flags: NDArray[np.bool_], operation: Callable[[Tensor, NDArray[np.int64]], Tensor]
) -> None:
    """Replace the flagged samples of x by the operation's result on them."""
    rows = np.flatnonzero(flags)
    if len(rows):
        place = _tensor(rows, x)
        x.index_copy_(0, place, operation(x.index_select(0, place), rows))


def _tensor(values: NDArray[Any], like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.ascontiguousarray(values)), like.device)
