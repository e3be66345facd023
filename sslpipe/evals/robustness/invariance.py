"""Which augmentations features ignore: an image beside itself under one operation of the view language, nothing else.

Rendered by the reference renderer from a table in which only that operation is switched on, for every image, at a
stated strength. Everything else is the view that evaluation sees.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from sslpipe.data.batch import Batch
from sslpipe.views.operations import OPERATIONS
from sslpipe.views.preprocess import Preprocess, central_box
from sslpipe.views.recipe import Recipe, ViewSpec
from sslpipe.views.render import reference
from sslpipe.views.table import Table

_STRENGTHS = {strength.name: (row, strength) for row in OPERATIONS for strength in row.strengths}
#: Every change of the view language, and how strong it is here. Signs and places are drawn for each image.
STRENGTHS: dict[str, str] = {name: strength.words for name, (_, strength) in _STRENGTHS.items()}
_AREA = 0.5  # fraction of the area that a crop keeps


def changed(
    batch: Batch, preprocess: Preprocess, operation: str | None, u: NDArray[np.float64], fill: float
) -> Tensor:
    """The view that evaluation sees, under one operation of `STRENGTHS` (None: as it is): float32 [N, 3, S, S].

    It is normalised. `u` [N, 2], uniform in [0, 1), is what is drawn for each image; `fill` the grey level outside it.
    """
    limit = batch.size.numpy()
    table = Table.plain(central_box(limit, preprocess.crop), limit)
    spec = ViewSpec(
        size=preprocess.size, interpolation=preprocess.interpolation, fill=fill,
        mean=preprocess.mean, std=preprocess.std,
    )  # fmt: skip
    if operation == "crop":  # anywhere within the box
        corner, room = table.box[:, :2], table.box[:, 2:]
        side = np.maximum(np.rint(math.sqrt(_AREA) * room), 1)
        box = np.concatenate((corner + np.floor(u * (room - side + 1)), side), axis=1)
        table = table.change(box=box.astype(np.int32))
    elif operation is not None:
        row, strength = _STRENGTHS[operation]
        spec = spec.model_copy(update=dict(strength.settings(spec.size)))
        drawn = {row.columns[0].name: True} if strength.drawn is None else strength.drawn(u, spec.size)
        table = table.change(**drawn)
    return reference.render(batch.pixels, table, spec)


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
    return [
        name
        for name, (row, strength) in _STRENGTHS.items()
        if any(row.has(spec, strength) for spec in recipe.views)
    ]
