"""The parameters of views, a row for each view: all that a renderer needs to know beside the pixels and the spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslpipe.views.operations import COLUMNS, Column


@dataclass(frozen=True, eq=False)
class Table:
    """The parameters of views, a row for each view.

    What is drawn for the operations is in `drawn`, and each of its columns is an attribute too: `table.grey` is
    `table.drawn["grey"]`, which may be written to. The columns derive from `sslpipe.views.operations`:

        hflip: bool [N], mirrored left to right.
        vflip: bool [N], upside down.
        angle: float32 [N], degrees counter-clockwise about the crop's centre.
        turns: uint8 [N], quarter turns counter-clockwise, after the flips.
        jitter: bool [N], colour-jittered or not.
        factors: float32 [N, 4], brightness, contrast, saturation, hue.
        order: uint8 [N, 4], the place of each step's adjustment in `factors`, first to last.
        grey: bool [N], without colour.
        sigma: float32 [N], the blur's standard deviation in pixels; 0 is not blurred.
        solarize: bool [N], values from .5 up inverted.

    Attributes:
        source: int64 [N], which canvas of the batch.
        size: int32 [N, 2], true height and width of the image on it.
        box: int32 [N, 4], the crop's top, left, height and width in canvas pixels, within `size`.
        drawn: structured array [N], what is drawn for the operations.
    """

    source: NDArray[np.int64]
    size: NDArray[np.int32]
    box: NDArray[np.int32]
    drawn: NDArray[np.void]

    def __len__(self) -> int:
        """Rows."""
        return len(self.source)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Table:
        """Some of the rows."""
        return Table(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __getattr__(self, name: str) -> NDArray[Any]:
        """A column of what is drawn."""
        if name not in _FIELDS:
            raise AttributeError(f"a table has no column {name}")
        return self.drawn[name]

    def change(self, **columns: Any) -> Table:
        """The same table with other values in some columns; one value is for all rows."""
        drawn = self.drawn.copy()
        for name in columns.keys() & _FIELDS.keys():
            drawn[name] = columns.pop(name)
        return replace(self, drawn=drawn, **columns)

    @staticmethod
    def plain(box: NDArray[np.int32], size: NDArray[np.int32]) -> Table:
        """Crops and nothing else: `box` [N, 4] of canvas 0 to N - 1, whose images have `size` [N, 2]."""
        n = len(box)
        return Table(source=np.arange(n), size=size, box=box, drawn=np.repeat(REST, n))


def records(values: NDArray[np.float64]) -> NDArray[np.void]:
    """`Table.drawn` [N] from the values of `COLUMNS`, [C, N]."""
    drawn, first = np.empty(values.shape[1], dtype=ROW), 0
    for name, columns in _FIELDS.items():
        value, first = values[first : first + len(columns)], first + len(columns)
        if columns[0].choices is not None:
            drawn[name] = columns[0].choices.take(value[0].astype(np.intp), axis=0)
        else:
            drawn[name] = value[0] if len(columns) == 1 else value.T
    return drawn


_FIELDS = {name: tuple(columns) for name, columns in groupby(COLUMNS, lambda column: column.name)}


def _shape(columns: Sequence[Column]) -> tuple[int, ...]:
    """Of what a row holds in a field: one value, several side by side, or one of the choices."""
    if columns[0].choices is not None:
        return columns[0].choices.shape[1:]
    return (len(columns),) if len(columns) > 1 else ()


#: The type of a row of `Table.drawn`.
ROW = np.dtype([(name, columns[0].kind, _shape(columns)) for name, columns in _FIELDS.items()], align=True)
#: A row where nothing is done, [1].
REST = records(np.array([[column.rest] for column in COLUMNS]))
