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

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslpipe.views.operations import ViewSpec
from sslpipe.views.render.triton import after, before, layout, resize
from sslpipe.views.render.triton.packing import TILE, Need, list_rows, pack
from sslpipe.views.table import Table

_BUDGET = 1 << 30  # bytes of scratch at once
_BLOCK = TILE**2  # pixels a program takes where they are taken in a row
_WEIGHED = 64  # output lines whose taps a program weighs
_LINES = {"HEIGHT": 8, "WIDTH": 128}  # a program's block of the first half of a long resize

# Said aloud, since Triton's default changes with its version. Where rounding matters products stay unfused.
_FUSED = {"enable_fp_fusion": True, "num_stages": 1}
_ROUNDED = {"enable_fp_fusion": False, "num_stages": 1}


@torch.no_grad()
def render(pixels: Tensor, table: Table, spec: ViewSpec, out: Tensor | None = None) -> Tensor:
    """As `reference.render`.

    An `out` of float32, bfloat16 or float16, contiguous or channels last, is written as it is, others by way of a copy.
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
    need = Need.of(table, spec)
    rows = max(1, _BUDGET // need.scratch(spec))
    parts = [slice(start, start + rows) for start in range(0, len(table), rows)]
    packed = pack(table, spec, need, pin=pixels.is_cuda)
    counts = [list_rows(packed[part].numpy()) for part in parts]
    words, pixels = packed.to(pixels.device, non_blocking=True), pixels.contiguous()
    with torch.cuda.device_of(pixels):
        for part, count in zip(parts, counts, strict=True):
            _Part(pixels, words[part], out[part], spec, need, count).render()
    return out


def _writable(out: Tensor, pixels: Tensor) -> bool:
    """Whether the kernels can write into a tensor as it lies."""
    dense = out[0].is_contiguous() or out[0].permute(1, 2, 0).is_contiguous()
    short = out.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return dense and short and out.device == pixels.device


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows that are rendered together: `words` int32 [N, WORDS], on the device, and how many are in each list.

    The `need` is that of all rows of the table; pixels, spec and out are as in `reference.render`.
    """

    pixels: Tensor
    words: Tensor
    out: Tensor
    spec: ViewSpec
    need: Need
    counts: dict[int, int]

    def render(self) -> None:
        """Launch what the rows need."""
        source, form, plane = self.pixels, resize.BYTES.value, 0
        if self.need.early:
            source, form, plane = self._begin(), resize.CANVAS.value, self.need.plane
        if self.spec.rotation:
            source, form, plane = self._rotate(source, form), resize.CROP.value, self.need.cut
        goal = self._goal()
        self._resize(source, form, plane, goal)
        for operation in self.spec.around_crop[1]:
            if operation == "jitter":
                self._contrast(goal)
            elif operation == "blur":
                self._blur(goal)

    @property
    def _side(self) -> int:
        """Of a block of the view."""
        return min(TILE, max(8, 1 << (self.spec.size - 1).bit_length()))

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
        kind = {"SIZE": self.spec.size, "TILE": self._side, "LAST": not self.out[0].is_contiguous()}
        return _FUSED | kind | {"num_warps": max(1, self._side**2 // 256)}

    def _begin(self) -> Tensor:
        """[N, 3, plane]: whole images as floats, with the operations that come before the crop."""
        n, side, plane = len(self.words), self.pixels.shape[1], self.need.plane
        blocks = -(-plane // _BLOCK)
        canvas, sums = self._new(n, 3, plane), self._new(n, blocks)
        kind = _FUSED | {"BLOCK": _BLOCK, "num_warps": 4}
        before.begin[(n * blocks,)](self.pixels, self.words, canvas, sums, side, plane, blocks, **kind)
        if count := self.counts[layout.HAS_EARLY_CONTRAST.value]:
            before.early_contrast[(count * blocks,)](self.words, canvas, sums, plane, blocks, **kind)
        return canvas

    def _rotate(self, source: Tensor, form: int) -> Tensor:
        """[N, 3, cut]: rotated crops."""
        n, side, plane, cut = len(self.words), self.pixels.shape[1], self.need.plane, self.need.cut
        blocks = -(-cut // _BLOCK)
        crops = self._new(n, 3, cut)
        sizes = side, plane, cut, blocks, 2 / side, side / 2
        kind = _ROUNDED | {"FORM": form, "BLOCK": _BLOCK, "num_warps": 8}
        resize.rotate[(n * blocks,)](source, self.words, crops, *sizes, self.spec.fill, **kind)
        return crops

    def _weigh(self) -> tuple[Tensor, Tensor]:
        """The taps of the resize: int32 [N, 2, S] where they begin, float32 [N, 2, taps, S] their weights."""
        n, size, taps = len(self.words), self.spec.size, self.need.taps
        starts, weights = self._new(n, 2, size, dtype=torch.int32), self._new(n, 2, taps, size)
        cubic = self.spec.interpolation == "bicubic"
        kind = _ROUNDED | {"SIZE": size, "BLOCK": _WEIGHED, "CUBIC": cubic, "num_warps": 1}
        resize.weigh[(2 * n * -(-size // _WEIGHED),)](self.words, starts, weights, taps, **kind)
        return starts, weights

    def _resize(self, source: Tensor, form: int, plane: int, goal: tuple[Any, ...]) -> None:
        taps = self._weigh()
        sizes = self.pixels.shape[1], plane, self.need.taps, self.need.reach
        kind = self._kind() | {"FORM": form, "TURNS": self.need.turned}
        if form != resize.BYTES.value:
            kind["num_warps"] *= 2  # in fewer registers each, so that a third more threads fit
        for column in (layout.IS_SHORT.value, layout.IS_LONG.value):
            if not (count := self.counts[column]):
                continue
            if column == layout.IS_LONG.value:
                source = self._shorten(source, form, taps, sizes)
            resize.resize[(count * self._tiles,)](
                source, self.words, *taps, *goal[:4], *sizes, *goal[4:], LIST=column, **kind
            )

    def _shorten(
        self, source: Tensor, form: int, taps: tuple[Tensor, Tensor], sizes: tuple[int, ...]
    ) -> Tensor:
        """[L, S, 3 · reach]: crops of the rows with many taps, S pixels high."""
        size, reach, count = self.spec.size, self.need.reach, self.counts[layout.IS_LONG.value]
        lines = self._new(count, size, 3 * reach)
        blocks = -(-3 * reach // _LINES["WIDTH"])
        kind = _FUSED | _LINES | {"SIZE": size, "FORM": form, "num_warps": 4}
        programs = count * -(-size // _LINES["HEIGHT"]) * blocks
        resize.shorten[(programs,)](source, self.words, *taps, lines, *sizes, blocks, **kind)
        return lines

    def _contrast(self, goal: tuple[Any, ...]) -> None:
        if count := self.counts[layout.HAS_CONTRAST.value]:
            blocks = -(-(self.spec.size**2) // _BLOCK)
            after.contrast[(count * blocks,)](self.words, *goal, BLOCK=_BLOCK, **self._kind())

    def _blur(self, goal: tuple[Any, ...]) -> None:
        if count := self.counts[layout.HAS_BLUR.value]:
            half = self._new(count, 3, self.spec.size, self.spec.size)
            reach = 1 << (self.spec.kernel // 2).bit_length()
            for second in (False, True):
                kind = self._kind() | {"REACH": reach, "SECOND": second}
                after.blur[(count * self._tiles,)](self.words, half, *goal, **kind)
