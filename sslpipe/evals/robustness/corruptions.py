"""Common corruptions of images at five severities, as tensors.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
Constants are those of the official code: `make_cifar_c.py` (CIFAR-10-C) for views below 128 pixels,
`make_imagenet_c.py` (ImageNet-C) from there on (github.com/hendrycks/robustness, ImageNet-C/create_c). As there,
results are cut to bytes. The code is our own, and random numbers are torch's: pictures are alike and not the same.

Left out: glass and zoom blur, snow, frost, fog and elastic deformation.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

Corruption = Callable[[Tensor, Any, torch.Generator], Tensor]

LARGE_FROM = 128  # pixels a side from which ImageNet-C's constants hold

#: By name, for severities 1 to 5.
CIFAR_C: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg": (80, 65, 58, 50, 40),
}
IMAGENET_C: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg": (25, 18, 15, 10, 7),
}
NAMES = tuple(CIFAR_C)


def corrupt(x: Tensor, name: str, severity: int, generator: torch.Generator) -> Tensor:
    """Images float32 [N, 3, S, S] in [0, 1], on the CPU, under one of `NAMES` at severity 1 to 5.

    They are cut to multiples of 1/255; what is random is drawn from `generator`.
    """
    constants = CIFAR_C if x.shape[-1] < LARGE_FROM else IMAGENET_C
    corruption = _FUNCTIONS[NAMES.index(name)]
    y = corruption(x, constants[name][severity - 1], generator).clamp(0, 1)
    return (255 * y + 1e-3).floor() / 255  # a hair more, so that a whole level stays what it is


def gaussian_noise(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Normal noise on every value."""
    return x + deviation * torch.randn(x.shape, generator=generator)


def shot_noise(x: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Poisson noise: a value of 1 is so many photons on average."""
    return torch.poisson(x.clamp(min=0) * photons, generator=generator) / photons


def impulse_noise(x: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Salt and pepper: a fraction of the values is set to 0 or 1, each as likely."""
    u = torch.rand(x.shape, generator=generator)
    return torch.where(u < fraction, (u < fraction / 2).to(x.dtype), x)


def defocus_blur(x: Tensor, disk: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Mean over a disk of this radius, the disk's edge softened by a small Gaussian of this deviation."""
    kernel = _disk(*disk)
    half, room = kernel.shape[0] // 2, x.shape[-1] - 1
    if half > room:  # a tiny image; what lies beyond it is cut off
        kernel = kernel[half - room : half + room + 1, half - room : half + room + 1]
        kernel, half = kernel / kernel.sum(), room
    padded = pad(x.flatten(0, 1)[:, None], (half,) * 4, mode="reflect")
    return conv2d(padded, kernel[None, None]).view_as(x)


def _disk(radius: float, deviation: float) -> Tensor:
    """The official kernel [K, K] without its outer zeros."""
    reach = math.ceil(radius) + (1 if radius <= 8 else 2)  # the Gaussian has 3 taps, or 5 for large disks
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (line[:, None] ** 2 + line**2 <= radius**2).double()
    taps = line[(line.abs() <= (1 if radius <= 8 else 2))]
    gauss = (-0.5 * (taps / deviation) ** 2).exp()
    gauss = torch.outer(gauss, gauss) / gauss.sum() ** 2
    soft = conv2d((inside / inside.sum())[None, None], gauss[None, None], padding="same")[0, 0]
    return soft.float()


def motion_blur(x: Tensor, streak: tuple[int, float], generator: torch.Generator) -> Tensor:
    """A streak to one side, as ImageMagick draws it: 2 · radius + 1 weights of half a Gaussian along a line.

    The line's angle is uniform in ±45° for each image; beyond the border the outermost pixel goes on.
    """
    radius, deviation = streak
    n, _, height, width = x.shape
    step = torch.arange(2 * radius + 1, dtype=torch.float64)  # [W]
    weight = (-0.5 * (step / deviation) ** 2).exp()
    weight = (weight / weight.sum()).float()
    angle = torch.deg2rad(90 * torch.rand(n, generator=generator, dtype=torch.float64) - 45)
    right = torch.ceil(step * angle.cos()[:, None] - 0.5).long()  # [N, W]
    down = torch.ceil(step * angle.sin()[:, None] - 0.5).long()
    out, image = torch.zeros_like(x), torch.arange(n)[:, None, None]
    for k in range(len(step)):
        rows = (torch.arange(height) + down[:, k, None]).clamp(0, height - 1)  # [N, H]
        columns = (torch.arange(width) + right[:, k, None]).clamp(0, width - 1)
        shifted = x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None]]  # [N, H, W, 3]
        out += weight[k] * shifted.permute(0, 3, 1, 2)
    return out


def brightness(x: Tensor, more: float, generator: torch.Generator) -> Tensor:
    """Added to HSV's value, the hue and saturation kept."""
    value = x.amax(dim=1, keepdim=True)  # [N, 1, S, S]
    brighter = (value + more).clamp(0, 1)
    return torch.where(value > 0, x * brighter / value.clamp(min=1e-12), brighter)


def contrast(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Towards each channel's mean."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) * factor + mean


def pixelate(x: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Scaled down to this fraction of the side and up again, both by Pillow's box filter."""
    size = x.shape[-1]
    small = max(1, int(size * fraction))
    down, up = _box(size, small), _box(small, size)
    y = _bytes(torch.einsum("ij,ncjk,lk->ncil", down, x, down))
    return torch.einsum("ij,ncjk,lk->ncil", up, y, up)


def _box(size: int, to: int) -> Tensor:
    """Pillow's BOX resize of a line as a matrix [to, size]: the mean of the pixels whose centres a piece covers."""
    scale = size / to
    centre = (torch.arange(to, dtype=torch.float64)[:, None] + 0.5) * scale
    place = (torch.arange(size, dtype=torch.float64) + 0.5 - centre) / max(scale, 1.0)
    weight = ((place > -0.5) & (place <= 0.5)).float()
    return weight / weight.sum(dim=1, keepdim=True)


def jpeg(x: Tensor, quality: int, generator: torch.Generator) -> Tensor:
    """Compressed and read again by Pillow."""
    from PIL import Image

    levels = (255 * _bytes(x)).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty_like(levels)
    for n, picture in enumerate(levels):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            out[n] = np.asarray(image.convert("RGB"))
    return torch.from_numpy(out).permute(0, 3, 1, 2).float() / 255


def _bytes(x: Tensor) -> Tensor:
    """The nearest multiples of 1/255."""
    return (255 * x.clamp(0, 1)).round() / 255


#: In the order of `NAMES`.
_FUNCTIONS: tuple[Corruption, ...] = (
    gaussian_noise, shot_noise, impulse_noise, defocus_blur, motion_blur, brightness, contrast, pixelate, jpeg
)  # fmt: skip
