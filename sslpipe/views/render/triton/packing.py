"""What the host says to the kernels: the packed table, and what its rows need between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslpipe.views.operations import NAMED, ViewSpec
from sslpipe.views.render.triton import colour, layout
from sslpipe.views.table import Table

TILE = 32  # side of a program's block of pixels
_DIRECT = 32  # taps a pixel up to which both axes are resized at once
_NEGLIGIBLE = 5  # standard deviations beyond which 6e-7 of a Gaussian lie

# A code has room for what may follow another in one view: jitter's four, and each step but the blur, which ends a code.
assert len(colour.STEPS) - 1 + 4 <= colour.MOST.value, "a code is full: give layout.py codes of two words"

Words = NDArray[np.int32]


@dataclass(frozen=True)
class Need:
    """What the rows of a table need between them.

    What changes a view's rounding is decided by its spec or its own row, never by the other rows.
    """

    early: bool  # some operation comes before the crop
    contrast: bool  # some row's contrast waits for the mean
    blur: bool  # some row is blurred
    turned: bool  # some row may have an odd number of quarter turns
    long: bool  # some row is resized along one axis after the other
    taps: int  # of the resize, the most along an axis
    plane: int  # pixels of the largest image
    cut: int  # pixels of the largest crop
    reach: int  # width of the widest crop

    @staticmethod
    def of(table: Table, spec: ViewSpec) -> Need:
        """Of all rows of a table."""
        early, late = spec.around_crop
        rows, columns = _taps(table, spec).T
        return Need(
            early=any(NAMED[step].chance(spec) > 0 or bool(_flag(table, step).any()) for step in early),
            contrast=spec.size > TILE and "jitter" in late and bool(table.jitter.any()),
            blur=bool((table.sigma > 0).any()),
            turned=spec.quarter_turns or bool((table.turns & 1).any()),
            long=bool((rows * columns > _DIRECT).any()),
            taps=int(max(rows.max(), columns.max())),
            plane=int((table.size[:, 0] * table.size[:, 1]).max()),
            cut=int((table.box[:, 2] * table.box[:, 3]).max()),
            reach=int(table.box[:, 3].max()),
        )

    @property
    def kept(self) -> bool:
        """Whether some row goes through scratch after the crop."""
        return self.contrast or self.blur

    def scratch(self, spec: ViewSpec) -> int:
        """Bytes a view."""
        before = self.plane * self.early + self.cut * (spec.rotation > 0)
        after = spec.size**2 * (self.kept + self.blur)
        return 12 * (before + spec.size * self.reach * self.long + after) + 8 * spec.size * (self.taps + 1)


def _taps(table: Table, spec: ViewSpec) -> Words:
    """[N, 2] pixels that an output pixel sees along a column and along a row."""
    width = 4 if spec.interpolation == "bicubic" else 2
    length = table.box[:, 2:]
    return np.minimum(np.maximum(-(-width * length // spec.size), width), length)


def pack(table: Table, spec: ViewSpec, need: Need, pin: bool) -> Tensor:
    """The table as layout.py describes it, int32 [N, WORDS]; its lists are still empty."""
    packed = torch.zeros(len(table), layout.WORDS.value, dtype=torch.int32, pin_memory=pin)
    words: Words = packed.numpy()

    def put(first: Any, values: NDArray[Any], dtype: type = np.int32) -> None:
        values = values.reshape(len(table), -1)
        words.view(dtype)[:, first.value : first.value + values.shape[1]] = values

    scale = table.box[:, 2:].astype(np.float32) / np.float32(spec.size)
    put(layout.SOURCE, table.source)
    put(layout.BOX, table.box)
    put(layout.IMAGE, table.size)
    put(layout.TURN, _turn(table))
    put(layout.FACTORS, table.factors, np.float32)
    put(layout.SCALE, scale, np.float32)
    put(layout.SHRINK, 1 / np.maximum(scale, np.float32(1)), np.float32)
    put(layout.COUNT, _taps(table, spec))
    if need.blur:
        sigma = np.where(table.sigma > 0, table.sigma, np.float32(1))
        put(layout.SHARPNESS, 1 / sigma, np.float32)
        put(layout.RADIUS, np.minimum(np.ceil(_NEGLIGIBLE * sigma), spec.kernel // 2))
    if spec.rotation:
        radians = np.deg2rad(table.angle.astype(np.float64))
        put(layout.COSINE, np.cos(radians), np.float32)
        put(layout.SINE, np.sin(radians), np.float32)
    early, late = spec.around_crop
    if need.early:
        put(layout.EARLY, _codes(table, spec, early, whole=False)[:, :2])
    put(layout.LATE, _codes(table, spec, late, whole=spec.size <= TILE))
    return packed


def _turn(table: Table) -> NDArray[np.int64]:
    """Flips, then quarter turns: rows reversed (1), columns reversed (2), and then both exchanged (4)."""
    odd, half = table.turns & 1, table.turns >> 1
    return (table.vflip ^ half) + 2 * (table.hflip ^ half ^ odd) + np.int64(4) * odd


def _codes(table: Table, spec: ViewSpec, order: tuple[str, ...], whole: bool) -> Words:
    """[N, 3] what is done to each row at first, after contrast and after the blur, of the steps in `order`.

    `whole`: contrast need not wait for the mean.
    """
    n = len(table)
    codes = np.zeros((n, 3), dtype=np.int32)
    code, used, place = np.zeros((3, n), dtype=np.int32)
    waits = [(colour.BLUR, colour.TO_BLUR), (colour.CONTRAST, colour.TO_CONTRAST)][: 1 if whole else 2]
    for operation in _steps(table, spec, order):
        for kind, goal in waits:
            rows = np.flatnonzero(operation == kind.value)
            codes[rows, place[rows]] = code[rows] | goal.value << colour.GOAL.value
            code[rows], used[rows], place[rows], operation[rows] = 0, 0, goal.value, 0
        code |= operation << used
        used += 4 * (operation > 0)
    codes[np.arange(n), place] = code
    return codes


def _steps(table: Table, spec: ViewSpec, order: tuple[str, ...]) -> Iterator[Words]:
    """Each row's operations, one after another; 0 is none."""
    for step in order:
        if step != "jitter":
            yield _flag(table, step) * np.int32(colour.STEPS[step].value)
        elif spec.jitter is not None:
            kinds = np.arange(1, 5, dtype=np.int32)  # in the order of `factors`
            kinds *= np.array(spec.jitter.strengths) > 0
            for place in range(4):
                yield kinds[table.order[:, place]] * table.jitter


def _flag(table: Table, step: str) -> NDArray[np.bool_]:
    """[N] whether a row undergoes a step."""
    return table.drawn[NAMED[step].columns[0].name] != 0


def list_rows(words: Words) -> dict[int, int]:
    """Write each kernel's rows into its column of the packed table, and count them."""
    late = words[:, layout.LATE.value :][:, :3] >> colour.GOAL.value
    early = words[:, layout.EARLY.value] >> colour.GOAL.value
    long = words[:, layout.COUNT.value] * words[:, layout.COUNT.value + 1] > _DIRECT
    flags = {
        layout.HAS_EARLY_CONTRAST.value: early == colour.TO_CONTRAST.value,
        layout.IS_SHORT.value: ~long,
        layout.IS_LONG.value: long,
        layout.HAS_CONTRAST.value: (late == colour.TO_CONTRAST.value).any(axis=1),
        layout.HAS_BLUR.value: (late == colour.TO_BLUR.value).any(axis=1),
    }
    counts = {}
    for column, flag in flags.items():
        rows = np.flatnonzero(flag)
        words[: len(rows), column] = rows
        counts[column] = len(rows)
    return counts
