"""Which augmentations features ignore: an image beside itself under one operation of the view language, nothing else.

Rendered by the reference renderer from a table in which only that operation is switched on, for every image, at a
stated strength. Everything else is the view that evaluation sees.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from sslpipe.data.batch import Batch
from sslpipe.views.evaluation import central_box
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import Jitter, Recipe, ViewSpec
from sslpipe.views.render import reference
from sslpipe.views.table import Table

#: Every operation of the view language, and how strong it is here. Signs and places are drawn for each image.
STRENGTHS: dict[str, str] = {
    "crop": "half the area, anywhere",
    "hflip": "mirrored",
    "vflip": "upside down",
    "rotation": "15° to either side",
    "quarter_turns": "90°, 180° or 270°",
    "brightness": "factor 0.6 or 1.4",
    "contrast": "factor 0.6 or 1.4",
    "saturation": "factor 0.6 or 1.4",
    "hue": "a tenth of the colour wheel to either side",
    "grey": "without colour",
    "blur": "deviation of 1 pixel, or 1 % of the side if that is more",
    "solarize": "values from 0.5 up inverted",
}
_AREA, _ANGLE, _JITTER, _HUE = 0.5, 15.0, 0.4, 0.1
_FACTORS = ("brightness", "contrast", "saturation", "hue")  # as `Table.factors` has them


def changed(
    batch: Batch, preprocess: Preprocess, operation: str | None, u: NDArray[np.float64], fill: float
) -> Tensor:
    """The view that evaluation sees, under one operation; None: as it is.

    Args:
        batch: canvases.
        preprocess: of the encoder.
        operation: a name of `STRENGTHS`.
        u: [N, 2], uniform in [0, 1): what is drawn for each image.
        fill: grey level outside the image, for rotations.

    Returns:
        float32 [N, 3, S, S], normalised, on the batch's device.
    """
    limit = batch.size.cpu().numpy()
    table = Table.plain(central_box(limit, preprocess.crop), limit)
    spec = ViewSpec(
        size=preprocess.size, interpolation=preprocess.interpolation, fill=fill,
        mean=preprocess.mean, std=preprocess.std,
    )  # fmt: skip
    if operation is not None:
        spec = spec.model_copy(update=_spec_of(operation, spec.size))
        _switch_on(operation, table, u, spec)
    return reference.render(batch.pixels, table, spec)


def _spec_of(operation: str, size: int) -> dict[str, Any]:
    """What a renderer has to be told beside the table."""
    if operation == "rotation":
        return {"rotation": _ANGLE}
    if operation in _FACTORS:
        strengths = dict.fromkeys(_FACTORS, 0.0) | {operation: _HUE if operation == "hue" else _JITTER}
        return {"jitter": Jitter(probability=1, **strengths)}
    if operation == "blur":
        reach = min(math.ceil(3 * _sigma(size)), size - 1)
        return {"blur_kernel": 2 * reach + 1}
    return {}


def _switch_on(operation: str, table: Table, u: NDArray[np.float64], spec: ViewSpec) -> None:
    """Write one operation into a plain table."""
    sign = np.where(u[:, 0] < 0.5, -1.0, 1.0)
    if operation == "crop":
        room = table.box[:, 2:].copy()  # [N, 2]
        side = np.maximum(np.rint(math.sqrt(_AREA) * room), 1)
        table.box[:, :2] += np.floor(u * (room - side + 1)).astype(np.int32)
        table.box[:, 2:] = side
    elif operation == "rotation":
        table.angle[:] = _ANGLE * sign
    elif operation == "quarter_turns":
        table.turns[:] = 1 + np.floor(3 * u[:, 0])
    elif operation in _FACTORS:
        table.jitter[:] = True
        centre, strength = (0.0, _HUE) if operation == "hue" else (1.0, _JITTER)
        table.factors[:, _FACTORS.index(operation)] = centre + strength * sign
    elif operation == "blur":
        table.sigma[:] = _sigma(spec.size)
    else:  # hflip, vflip, grey, solarize
        getattr(table, operation)[:] = True


def _sigma(size: int) -> float:
    return max(1.0, size / 100)


def similarity(a: Tensor, b: Tensor) -> float:
    """Mean cosine of the rows of a and b, [N, D] each."""
    return (normalize(a.double(), dim=1) * normalize(b.double(), dim=1)).sum(dim=1).mean().item()


def similarity_of_others(x: Tensor) -> float:
    """Mean cosine of two different rows of x [N, D], N at least 2."""
    z = normalize(x.double(), dim=1)
    n = len(z)
    # ‖Σ z‖² sums all pairs, each row with itself among them.
    return ((z.sum(dim=0).square().sum() - z.square().sum()) / (n * (n - 1))).item()


def relative(same: float, others: float) -> float | None:
    """(same − others) / (1 − others): 1 where the operation changes nothing, 0 where it makes another image of it.

    None where all images are alike, so that there is nothing to compare with.
    """
    return (same - others) / (1 - others) if 1 - others > 1e-6 else None


def in_recipe(recipe: Recipe) -> list[str]:
    """The operations that any view of the recipe has: those a method may have learnt to ignore."""
    found: set[str] = set()
    for spec in recipe.views:
        jitter = spec.jitter if spec.jitter is not None and spec.jitter.probability else None
        found.update(name for name in _FACTORS if jitter is not None and getattr(jitter, name))
        found.update(
            name
            for name in ("hflip", "vflip", "rotation", "quarter_turns", "grey", "blur", "solarize")
            if getattr(spec, name)
        )
        if spec.scale[0] < 1:
            found.add("crop")
    return [name for name in STRENGTHS if name in found]
