"""Rendering in a few fused GPU kernels: within 2e-5 of `reference.render` before normalisation, 1e-4 where rotated.

A program resizes, flips, turns and colours a block of a view's pixels in registers. Only what needs more than a
pixel's own value goes through memory: contrast, which waits for the mean of the image, and the blur, which looks at
neighbours. A view of up to 32 x 32 pixels is one block, and has its mean at once. The host, which has the table, says
which rows each kernel is launched for; nothing waits for the device. A view's values do not depend on its batch.

Scratch a view, in bytes: 12 S² if its contrast must wait or it is blurred, and 12 S² more to blur; 12 a pixel of the
largest image where colour comes before the crop; 12 a pixel of the largest crop to rotate; 12 S a column of the
widest crop where the resize has many taps; 8 S (taps + 1) for the taps. SimCLR's views need 1.2 MB each at 224
pixels and 1 kB at 32. A table that needs more than a GiB is worked through in parts.

Kernels are compiled where they are first used, half a second each, and kept in Triton's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslpipe.views.recipe import Operation, ViewSpec
from sslpipe.views.render import triton_kernels as kernels
from sslpipe.views.table import Table

_BUDGET = 1 << 30  # bytes of scratch at once
_TILE = 32  # side of a program's block of pixels
_BLOCK = _TILE**2  # the same where pixels are taken in a row
_DIRECT = 32  # taps a pixel up to which both axes are resized at once
_WEIGHED = 64  # output lines whose taps a program weighs
_LINES = {"HEIGHT": 8, "WIDTH": 128}  # a program's block of the first half of a long resize
_NEGLIGIBLE = 5  # standard deviations beyond which 6e-7 of a Gaussian lie

# Said aloud, since Triton's default changes with its version. Where rounding matters products stay unfused.
_FUSED = {"enable_fp_fusion": True, "num_stages": 1}
_ROUNDED = {"enable_fp_fusion": False, "num_stages": 1}

Words = NDArray[np.int32]


def available(device: torch.device) -> bool:
    """Whether the kernels run on a device: on a GPU, or anywhere if Triton's interpreter was on at their import."""
    return device.type == "cuda" or type(kernels.resize).__name__ == "InterpretedFunction"


@torch.no_grad()
def render(pixels: Tensor, table: Table, spec: ViewSpec, out: Tensor | None = None) -> Tensor:
    """As `reference.render`.

    Args:
        pixels: uint8 [M, R, R, 3] canvases.
        table: N rows; `source` says which canvas.
        spec: what the table was drawn for.
        out: where to write, [N, 3, S, S] of any floating type and memory format; float32, bfloat16 and float16,
            contiguous or channels last, are written as they are, others by way of a copy. By default a new
            float32 tensor.

    Returns:
        `out`, normalised, on the device of `pixels`.
    """
    if out is None:
        out = torch.empty(len(table), 3, spec.size, spec.size, device=pixels.device)
    if len(table) == 0:
        return out
    if not _writable(out, pixels):
        return out.copy_(render(pixels, table, spec))
    assert out.shape == (len(table), 3, spec.size, spec.size)
    assert pixels.dtype == torch.uint8
    assert table.source.max() < len(pixels)
    need = _Need.of(table, spec)
    rows = max(1, _BUDGET // need.scratch(spec))
    parts = [slice(start, start + rows) for start in range(0, len(table), rows)]
    packed = _pack(table, spec, need, pin=pixels.is_cuda)
    counts = [_list(packed[part].numpy()) for part in parts]
    words, pixels = packed.to(pixels.device, non_blocking=True), pixels.contiguous()
    with torch.cuda.device_of(pixels):
        for part, count in zip(parts, counts, strict=True):
            _Part(pixels, words[part], out[part], spec, need, count).render()
    return out


def _writable(out: Tensor, pixels: Tensor) -> bool:
    """Whether the kernels can write into a tensor as it lies."""
    dense = out[0].is_contiguous() or out[0].permute(1, 2, 0).is_contiguous()
    return (
        dense and out.device == pixels.device and out.dtype in (torch.float32, torch.bfloat16, torch.float16)
    )


# ----------------------------------------------------------------------------------------- what the host says


@dataclass(frozen=True)
class _Need:
    """What the rows of a table need between them.

    What changes a view's rounding is decided by its spec or its own row, never by the other rows.

    Attributes:
        early: some operation comes before the crop.
        contrast: some row's contrast waits for the mean.
        blur: some row is blurred.
        turned: some row may have an odd number of quarter turns.
        long: some row is resized along one axis after the other.
        taps: of the resize, the most along an axis.
        plane: pixels of the largest image.
        cut: pixels of the largest crop.
        reach: width of the widest crop.
    """

    early: bool
    contrast: bool
    blur: bool
    turned: bool
    long: bool
    taps: int
    plane: int
    cut: int
    reach: int

    @staticmethod
    def of(table: Table, spec: ViewSpec) -> _Need:
        """Of all rows of a table."""
        early, late = _around_crop(spec)
        jitter = spec.jitter is not None and spec.jitter.probability > 0
        rows, columns = _taps(table, spec).T
        return _Need(
            early=(jitter and "jitter" in early) or ("grey" in early and bool(spec.grey or table.grey.any())),
            contrast=spec.size > _TILE and "jitter" in late and bool(table.jitter.any()),
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


def _around_crop(spec: ViewSpec) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """The operations before the crop, and those after it."""
    crop = spec.order.index("crop")
    return spec.order[:crop], spec.order[crop + 1 :]


def _taps(table: Table, spec: ViewSpec) -> Words:
    """[N, 2] pixels that an output pixel sees along a column and along a row."""
    width = 4 if spec.interpolation == "bicubic" else 2
    length = table.box[:, 2:]
    return np.minimum(np.maximum(-(-width * length // spec.size), width), length)


def _pack(table: Table, spec: ViewSpec, need: _Need, pin: bool) -> Tensor:
    """The table as sslpipe.views.render.triton_kernels describes it, int32 [N, WORDS]; its lists are still empty."""
    packed = torch.zeros(len(table), kernels.WORDS.value, dtype=torch.int32, pin_memory=pin)
    words: Words = packed.numpy()

    def put(first: Any, values: NDArray[Any], dtype: type = np.int32) -> None:
        values = values.reshape(len(table), -1)
        words.view(dtype)[:, first.value : first.value + values.shape[1]] = values

    scale = table.box[:, 2:].astype(np.float32) / np.float32(spec.size)
    put(kernels.SOURCE, table.source)
    put(kernels.BOX, table.box)
    put(kernels.IMAGE, table.size)
    put(kernels.TURN, _turn(table))
    put(kernels.FACTORS, table.factors, np.float32)
    put(kernels.SCALE, scale, np.float32)
    put(kernels.SHRINK, 1 / np.maximum(scale, np.float32(1)), np.float32)
    put(kernels.COUNT, _taps(table, spec))
    if need.blur:
        sigma = np.where(table.sigma > 0, table.sigma, np.float32(1))
        put(kernels.SHARPNESS, 1 / sigma, np.float32)
        put(kernels.RADIUS, np.minimum(np.ceil(_NEGLIGIBLE * sigma), spec.kernel // 2))
    if spec.rotation:
        radians = np.deg2rad(table.angle.astype(np.float64))
        put(kernels.COSINE, np.cos(radians), np.float32)
        put(kernels.SINE, np.sin(radians), np.float32)
    early, late = _around_crop(spec)
    if need.early:
        put(kernels.EARLY, _codes(table, spec, early, whole=False)[:, :2])
    put(kernels.LATE, _codes(table, spec, late, whole=spec.size <= _TILE))
    return packed


def _turn(table: Table) -> NDArray[np.int64]:
    """Flips, then quarter turns: rows reversed (1), columns reversed (2), and then both exchanged (4)."""
    odd, half = table.turns & 1, table.turns >> 1
    return (table.vflip ^ half) + 2 * (table.hflip ^ half ^ odd) + np.int64(4) * odd


def _codes(table: Table, spec: ViewSpec, order: tuple[Operation, ...], whole: bool) -> Words:
    """[N, 3] what is done to each row at first, after contrast and after the blur.

    Args:
        table: N rows.
        spec: what it was drawn for.
        order: operations.
        whole: contrast need not wait for the mean.
    """
    n = len(table)
    codes = np.zeros((n, 3), dtype=np.int32)
    code, used, place = np.zeros((3, n), dtype=np.int32)
    waits = [(kernels.BLUR, kernels.TO_BLUR), (kernels.CONTRAST, kernels.TO_CONTRAST)][: 1 if whole else 2]
    for operation in _steps(table, spec, order):
        for kind, goal in waits:
            rows = np.flatnonzero(operation == kind.value)
            codes[rows, place[rows]] = code[rows] | goal.value << kernels.GOAL.value
            code[rows], used[rows], place[rows], operation[rows] = 0, 0, goal.value, 0
        code |= operation << used
        used += 4 * (operation > 0)
    codes[np.arange(n), place] = code
    return codes


def _steps(table: Table, spec: ViewSpec, order: tuple[Operation, ...]) -> Iterator[Words]:
    """Each row's operations, one after another; 0 is none."""
    flags = {
        "grey": (table.grey, kernels.GREY),
        "blur": (table.sigma > 0, kernels.BLUR),
        "solarize": (table.solarize, kernels.SOLARIZE),
    }
    for operation in order:
        if operation in flags:
            flag, kind = flags[operation]
            yield flag * np.int32(kind.value)
        elif spec.jitter is not None:
            jitter = spec.jitter
            kinds = np.arange(1, 5, dtype=np.int32)  # in the order of `factors`
            kinds *= np.array((jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)) > 0
            for step in range(4):
                yield kinds[table.order[:, step]] * table.jitter


def _list(words: Words) -> dict[int, int]:
    """Write each kernel's rows into its column of the packed table, and count them."""
    late = words[:, kernels.LATE.value :][:, :3] >> kernels.GOAL.value
    early = words[:, kernels.EARLY.value] >> kernels.GOAL.value
    long = words[:, kernels.COUNT.value] * words[:, kernels.COUNT.value + 1] > _DIRECT
    flags = {
        kernels.HAS_EARLY_CONTRAST.value: early == kernels.TO_CONTRAST.value,
        kernels.IS_SHORT.value: ~long,
        kernels.IS_LONG.value: long,
        kernels.HAS_CONTRAST.value: (late == kernels.TO_CONTRAST.value).any(axis=1),
        kernels.HAS_BLUR.value: (late == kernels.TO_BLUR.value).any(axis=1),
    }
    counts = {}
    for column, flag in flags.items():
        rows = np.flatnonzero(flag)
        words[: len(rows), column] = rows
        counts[column] = len(rows)
    return counts


# ------------------------------------------------------------------------------------------- what is launched


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows that are rendered together.

    Attributes:
        pixels: uint8 [M, R, R, 3].
        words: int32 [N, WORDS], on the device.
        out: [N, 3, S, S].
        spec: what the rows were drawn for.
        need: of all rows of the table.
        counts: rows in each list.
    """

    pixels: Tensor
    words: Tensor
    out: Tensor
    spec: ViewSpec
    need: _Need
    counts: dict[int, int]

    def render(self) -> None:
        """Launch what the rows need."""
        source, form, plane = self.pixels, kernels.BYTES.value, 0
        if self.need.early:
            source, form, plane = self._begin(), kernels.CANVAS.value, self.need.plane
        if self.spec.rotation:
            source, form, plane = self._rotate(source, form), kernels.CROP.value, self.need.cut
        goal = self._goal()
        self._resize(source, form, plane, goal)
        for operation in _around_crop(self.spec)[1]:
            if operation == "jitter":
                self._contrast(goal)
            elif operation == "blur":
                self._blur(goal)

    @property
    def _side(self) -> int:
        """Of a block of the view."""
        return min(_TILE, max(8, 1 << (self.spec.size - 1).bit_length()))

    @property
    def _tiles(self) -> int:
        """Blocks a view."""
        return (-(-self.spec.size // self._side)) ** 2

    def _new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.pixels.device)

    def _goal(self) -> tuple[Any, ...]:
        """Where pixels go: the arguments that `emit` wants."""
        size, kept = self.spec.size, len(self.words) if self.need.kept else 0
        scratch, sums = self._new(kept, 3, size, size), self._new(kept, self._tiles)
        inverse = tuple(1 / value for value in self.spec.std)
        return self.out, self.out.stride(0), scratch, sums, self.spec.mean, inverse

    def _kind(self) -> dict[str, Any]:
        """How blocks of a view are written."""
        return {
            "SIZE": self.spec.size,
            "TILE": self._side,
            "LAST": not self.out[0].is_contiguous(),
            "num_warps": max(1, self._side**2 // 256),
            **_FUSED,
        }

    def _begin(self) -> Tensor:
        """[N, 3, plane]: whole images as floats, with the operations that come before the crop."""
        n, side, plane = len(self.words), self.pixels.shape[1], self.need.plane
        blocks = -(-plane // _BLOCK)
        canvas, sums = self._new(n, 3, plane), self._new(n, blocks)
        kernels.begin[(n * blocks,)](
            self.pixels, self.words, canvas, sums, side, plane, blocks, BLOCK=_BLOCK, num_warps=4, **_FUSED
        )
        if count := self.counts[kernels.HAS_EARLY_CONTRAST.value]:
            kernels.early_contrast[(count * blocks,)](
                self.words, canvas, sums, plane, blocks, BLOCK=_BLOCK, num_warps=4, **_FUSED
            )
        return canvas

    def _rotate(self, source: Tensor, form: int) -> Tensor:
        """[N, 3, cut]: rotated crops."""
        n, side, plane, cut = len(self.words), self.pixels.shape[1], self.need.plane, self.need.cut
        blocks = -(-cut // _BLOCK)
        crops = self._new(n, 3, cut)
        sizes = side, plane, cut, blocks, 2 / side, side / 2
        kernels.rotate[(n * blocks,)](
            source,
            self.words,
            crops,
            *sizes,
            self.spec.fill,
            FORM=form,
            BLOCK=_BLOCK,
            num_warps=8,
            **_ROUNDED,
        )
        return crops

    def _weigh(self) -> tuple[Tensor, Tensor]:
        """The taps of the resize: int32 [N, 2, S] where they begin, float32 [N, 2, taps, S] their weights."""
        n, size, taps = len(self.words), self.spec.size, self.need.taps
        starts, weights = self._new(n, 2, size, dtype=torch.int32), self._new(n, 2, taps, size)
        kernels.weigh[(2 * n * -(-size // _WEIGHED),)](
            self.words,
            starts,
            weights,
            taps,
            SIZE=size,
            BLOCK=_WEIGHED,
            CUBIC=self.spec.interpolation == "bicubic",
            num_warps=1,
            **_ROUNDED,
        )
        return starts, weights

    def _resize(self, source: Tensor, form: int, plane: int, goal: tuple[Any, ...]) -> None:
        taps = self._weigh()
        sizes = self.pixels.shape[1], plane, self.need.taps, self.need.reach
        for column in (kernels.IS_SHORT.value, kernels.IS_LONG.value):
            if not (count := self.counts[column]):
                continue
            if column == kernels.IS_LONG.value:
                source = self._shorten(source, form, taps, sizes)
            kernels.resize[(count * self._tiles,)](
                source,
                self.words,
                *taps,
                *goal[:4],
                *sizes,
                *goal[4:],
                LIST=column,
                FORM=form,
                TURNS=self.need.turned,
                **self._kind(),
            )

    def _shorten(
        self, source: Tensor, form: int, taps: tuple[Tensor, Tensor], sizes: tuple[int, ...]
    ) -> Tensor:
        """[L, S, 3 · reach]: crops of the rows with many taps, S pixels high."""
        size, reach, count = self.spec.size, self.need.reach, self.counts[kernels.IS_LONG.value]
        lines = self._new(count, size, 3 * reach)
        blocks = -(-3 * reach // _LINES["WIDTH"])
        kernels.shorten[(count * -(-size // _LINES["HEIGHT"]) * blocks,)](
            source, self.words, *taps, lines, *sizes, blocks, SIZE=size, FORM=form, num_warps=4, **_LINES, **_FUSED
        )  # fmt: skip
        return lines

    def _contrast(self, goal: tuple[Any, ...]) -> None:
        if count := self.counts[kernels.HAS_CONTRAST.value]:
            blocks = -(-(self.spec.size**2) // _BLOCK)
            kernels.contrast[(count * blocks,)](self.words, *goal, BLOCK=_BLOCK, **self._kind())

    def _blur(self, goal: tuple[Any, ...]) -> None:
        if count := self.counts[kernels.HAS_BLUR.value]:
            half = self._new(count, 3, self.spec.size, self.spec.size)
            reach = 1 << (self.spec.kernel // 2).bit_length()
            for second in (False, True):
                kernels.blur[(count * self._tiles,)](
                    self.words, half, *goal, REACH=reach, SECOND=second, **self._kind()
                )
