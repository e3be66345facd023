"""What views are, said a second time and plainly: each parameter as it is drawn, each step as torchvision does it.

A new operation adds a line to `CHANCES`, to `drawn` and to `STEPS`; tests of the drawing and of all renderers follow.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslpipe.views import Jitter, ViewSpec, philox
from sslpipe.views.table import Table

#: Operations that are done or not, with a probability that shows both.
CHANCES: dict[str, Any] = {"grey": 0.3, "blur": 0.5, "solarize": 0.3}
ORDERS = list(permutations(range(4)))

# ------------------------------------------------------------------------------------------------- drawing


def drawn(
    spec: ViewSpec, *, seed: int, epoch: int, index: np.ndarray, view: int | np.ndarray, size: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of `sslpipe.views.drawing.draw`, a sample after the other."""
    words = philox.words(index, seed=seed, epoch=epoch, view=view, first=0, count=philox.MASK)
    rows = [
        _row(spec, sample.tolist(), *(int(side) for side in sides))
        for sample, sides in zip(words, size, strict=True)
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _row(spec: ViewSpec, words: list[int], height: int, width: int) -> dict[str, Any]:
    """A sample's parameters, from its random words."""
    u = [word * 2.0**-32 for word in words]
    flips, colour = 4 * philox.FLIPS, 4 * philox.COLOUR
    jitter = spec.jitter or Jitter(probability=0)

    def between(low: float, high: float, word: int) -> np.float32:
        return np.float32(low + (high - low) * u[word])

    def factor(strength: float, word: int) -> np.float32:
        return between(max(0.0, 1 - strength), 1 + strength, word)

    return {
        "box": _box(spec, words, height, width),
        "hflip": u[flips] < spec.hflip,
        "vflip": u[flips + 1] < spec.vflip,
        "angle": between(-spec.rotation, spec.rotation, flips + 2),
        "turns": np.uint8(words[flips + 3] >> 30 if spec.quarter_turns else 0),
        "jitter": u[colour] < jitter.probability,
        "factors": [
            factor(jitter.brightness, colour + 1),
            factor(jitter.contrast, colour + 2),
            factor(jitter.saturation, colour + 3),
            between(-jitter.hue, jitter.hue, colour + 4),
        ],
        "order": np.array(ORDERS[words[colour + 5] * 24 >> 32], dtype=np.uint8),
        "grey": u[colour + 6] < spec.grey,
        "sigma": between(*spec.blur_sigma, colour + 8) if u[colour + 7] < spec.blur else np.float32(0),
        "solarize": u[colour + 9] < spec.solarize,
    }


def _box(spec: ViewSpec, words: list[int], height: int, width: int) -> np.ndarray:
    """torchvision's RandomResizedCrop: the first of ten tries that fits, else the centre."""
    low, high = (math.log(value) for value in spec.ratio)
    for k in range(0, 40, 4):
        area = height * width * (spec.scale[0] + (spec.scale[1] - spec.scale[0]) * words[k] * 2.0**-32)
        aspect = math.exp(low + (high - low) * words[k + 1] * 2.0**-32)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top, left = words[k + 2] * (height - h + 1) >> 32, words[k + 3] * (width - w + 1) >> 32
            return np.array([top, left, h, w], dtype=np.int32)
    h, w = height, width
    if width / height < spec.ratio[0]:
        h = min(max(round(width / spec.ratio[0]), 1), height)
    if width / height > spec.ratio[1]:
        w = min(max(round(height * spec.ratio[1]), 1), width)
    return np.array([(height - h) // 2, (width - w) // 2, h, w], dtype=np.int32)


# ------------------------------------------------------------------------------------------------- pixels


def image_of(canvas: Tensor, table: Table, n: int, spec: ViewSpec) -> Tensor:
    """Row n of a table as a view [3, S, S], by torchvision's functions, before it is normalised."""
    height, width = (int(v) for v in table.size[n])
    image = _torchvision().to_dtype(canvas[:height, :width].permute(2, 0, 1), torch.float32, scale=True)
    for step in spec.order:
        image = STEPS[step](image, table, n, spec)
    return image


def _torchvision() -> Any:
    import torchvision.transforms.v2.functional as functional  # heavy, and drawing needs none of it

    return functional


def _crop(image: Tensor, table: Table, n: int, spec: ViewSpec) -> Tensor:
    functional = _torchvision()
    top, left, height, width = (int(v) for v in table.box[n])
    if spec.rotation:
        middle = [left + width / 2, top + height / 2]
        mode = functional.InterpolationMode.BILINEAR
        image = functional.rotate(image, float(table.angle[n]), mode, center=middle, fill=[spec.fill])
    image = functional.resized_crop(
        image, top, left, height, width, [spec.size] * 2, interpolation=spec.interpolation, antialias=True
    ).clamp(0, 1)
    if table.hflip[n]:
        image = functional.horizontal_flip(image)
    if table.vflip[n]:
        image = functional.vertical_flip(image)
    return functional.rotate(image, 90.0 * int(table.turns[n]))


def _jitter(image: Tensor, table: Table, n: int, spec: ViewSpec) -> Tensor:
    if spec.jitter is None or not table.jitter[n]:
        return image
    functional = _torchvision()
    strengths = (spec.jitter.brightness, spec.jitter.contrast, spec.jitter.saturation, spec.jitter.hue)
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for kind in table.order[n]:
        if strengths[kind]:
            image = adjust[kind](image, float(table.factors[n, kind]))
    return image


def _grey(image: Tensor, table: Table, n: int, spec: ViewSpec) -> Tensor:
    return _torchvision().rgb_to_grayscale(image, 3) if table.grey[n] else image


def _blur(image: Tensor, table: Table, n: int, spec: ViewSpec) -> Tensor:
    sigma = float(table.sigma[n])
    return _torchvision().gaussian_blur(image, [spec.kernel] * 2, [sigma] * 2) if sigma > 0 else image


def _solarize(image: Tensor, table: Table, n: int, spec: ViewSpec) -> Tensor:
    return _torchvision().solarize(image, 0.5) if table.solarize[n] else image


STEPS = {"crop": _crop, "jitter": _jitter, "grey": _grey, "blur": _blur, "solarize": _solarize}
