"""Compiled loops of the `cpu` renderer: one view at a time, in a core's own cache, without the interpreter's lock.

A view goes through *phases*. The first resizes the crop, a few rows at a time, and while these rows are still
in the nearest cache applies the colour operations that follow. Contrast needs the whole view's mean and blur
its neighbours, so each begins another phase. The last phase also normalises and writes.

Pictures are planar rows whose length is a multiple of `LANES`, so that loops run over whole vector registers;
what lies beyond a row's end is zero until contrast, and never written out.

The results are those of `reference` but for the order of float32 additions. Taps are computed in its very
rounding order; only pixel arithmetic may use fused multiply-add.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
TILE = 2048  # pixels that go through a run of colour operations together: 3 · 8 kB of float32

# What a view may go through. The first four are jitter's, in the order of `Table.factors`.
BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, BLUR, SOLARIZE = range(7)
# `ViewSpec.order` in numbers.
CROP_STEP, JITTER_STEP, GREY_STEP, BLUR_STEP, SOLARIZE_STEP = range(5)
_RESIZE, _CONTRASTED, _BLURRED = range(3)  # where a phase's rows come from

_NEGLIGIBLE = np.float32(2e-8)  # a blur's weight below this changes nothing
_UNIT = np.float32(1 / 255)
_ONE, _ZERO = np.float32(1), np.float32(0)
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)

# Pixels are finite, and their last bit may fall either way. Taps are compiled without any of this.
_PIXELS = {"nnan", "ninf", "nsz", "contract", "arcp"}


def _home() -> Path | None:
    """A file with this module's bytes, its name and time a function of them alone.

    numba keeps compiled code beside the source and trusts its path and time. Every clone of a project and every
    temporary workspace has this module under another path, and would compile it anew.
    """
    content = Path(__file__).read_bytes()
    digest = hashlib.sha256(content + f"{numba.__version__} {platform.node()}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "sslpipe" / f"kernels-{digest}" / "cpu_kernels.py"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(content)
            os.utime(file.name, (0, 0))
            os.replace(file.name, path)
    except OSError:
        return None  # nowhere to keep it: each process compiles for itself
    return path


_HOME = _home()


def _compiled(function: Callable[..., Any], *, fastmath: Any = False, entry: bool = False) -> Any:
    if _HOME is not None:
        function.__code__ = function.__code__.replace(co_filename=str(_HOME))
    cache = entry and _HOME is not None  # what an entry calls is kept with it
    return numba.njit(function, cache=cache, nogil=True, error_model="numpy", fastmath=fastmath)


def exact(function: Callable[..., Any]) -> Any:
    """Compile with every rounding where it is written."""
    return _compiled(function)


def pixels(function: Callable[..., Any]) -> Any:
    """Compile for speed: see `_PIXELS`."""
    return _compiled(function, fastmath=_PIXELS)


# ----------------------------------------------------------------------------------------- vector loops


def _pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [offset])


def _load(builder: Any, pointer: Any, lanes: int = LANES) -> Any:
    vector = ir.VectorType(ir.FloatType(), lanes)
    load = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    load.align = 4
    return load


def _spread(builder: Any, value: Any, lanes: int = LANES) -> Any:
    """A float32 in all lanes."""
    vector = ir.VectorType(ir.FloatType(), lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), places)


def _add_product(builder: Any, total: Any, a: Any, b: Any) -> None:
    """total += a · b, in a register."""
    product = builder.fmul(a, b, flags=("contract",))
    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)


def _store(builder: Any, value: Any, pointer: Any) -> None:
    store = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()))
    store.align = 4


@intrinsic
def _weigh(typing: Any, out: Any, to: Any, step: Any, weights: Any, w: Any, row: Any, r: Any, plane: Any, pixel: Any, n: Any) -> Any:
    """LANES outputs of three channels from n inputs:
    out[to + c·step + lane] = Σ_j weights[w + j·LANES + lane] · row[r + c·plane + j·pixel].

    Each input is spread over the lanes, so that nothing is gathered and the sums stay in registers.
    """  # fmt: skip
    signature = types.void(out, types.intp, types.intp, weights, types.intp, row, types.intp, types.intp, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a_out, to, step, a_weights, w, a_row, r, plane, pixel, n = args
        kinds = signature.args
        zero = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(3)]
        for total in totals:
            builder.store(zero, total)
        weight = _pointer(context, builder, kinds[3], a_weights, w)
        sources = [_pointer(context, builder, kinds[5], a_row, builder.add(r, builder.mul(plane, plane.type(c)))) for c in range(3)]
        with cgutils.for_range(builder, n) as loop:
            lanes = _load(builder, builder.gep(weight, [builder.mul(loop.index, loop.index.type(LANES))]))
            for total, source in zip(totals, sources, strict=True):
                value = builder.load(builder.gep(source, [builder.mul(loop.index, pixel)]))
                _add_product(builder, total, lanes, _spread(builder, value))
        for c, total in enumerate(totals):
            target = _pointer(context, builder, kinds[0], a_out, builder.add(to, builder.mul(step, step.type(c))))
            _store(builder, builder.load(total), target)
        return context.get_dummy_value()

    return signature, codegen


def _smoother(lanes: int) -> Any:
    @intrinsic
    def smooth(typing: Any, out: Any, to: Any, source: Any, at: Any, step: Any, weights: Any, n: Any) -> Any:
        """Outputs of a symmetric filter: weights[0] · x(0) + Σ_{d = 1…n} weights[d] · (x(-d) + x(d)), where
        x(d) = source[at + d·step + lane].
        """
        signature = types.void(out, types.intp, source, types.intp, types.intp, weights, types.intp)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_out, to, a_source, at, step, a_weights, n = args
            kinds = signature.args
            centre = _pointer(context, builder, kinds[2], a_source, at)
            weight = _pointer(context, builder, kinds[5], a_weights, ir.Constant(at.type, 0))
            first = builder.fmul(_load(builder, centre, lanes), _spread(builder, builder.load(weight), lanes))
            total = cgutils.alloca_once(builder, first.type)
            builder.store(first, total)
            with cgutils.for_range(builder, n) as loop:
                d = builder.add(loop.index, loop.index.type(1))
                shift = builder.mul(d, step)
                before = _load(builder, builder.gep(centre, [builder.neg(shift)]), lanes)
                after = _load(builder, builder.gep(centre, [shift]), lanes)
                value = builder.load(builder.gep(weight, [d]))
                _add_product(builder, total, builder.fadd(before, after), _spread(builder, value, lanes))
            _store(builder, builder.load(total), _pointer(context, builder, kinds[0], a_out, to))
            return context.get_dummy_value()

        return signature, codegen

    return smooth


_smooth, _smooth_4 = _smoother(LANES), _smoother(4 * LANES)  # the wider shares each weight's load


@intrinsic
def _claim(typing: Any, counter: Any, amount: Any) -> Any:
    """Add to counter[0] and return what it was, whatever other threads do meanwhile."""
    signature = types.intp(counter, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", pointer, args[1], "monotonic")

    return signature, codegen


# ------------------------------------------------------------------------------------------------- taps


@exact
def _tap(place: int, centre: np.float32, inverse: np.float64, cubic: bool) -> np.float32:
    """The weight of an input pixel at a distance from an output pixel's centre, before the weights' sum is made 1."""
    distance = np.float32(abs(np.float32((np.float64(np.float32(place) - centre) + 0.5) * inverse)))
    if not cubic:
        return max(_ONE - distance, _ZERO)
    if distance >= np.float32(2):
        return _ZERO
    if distance < _ONE:
        return (np.float32(1.5) * distance - np.float32(2.5)) * distance * distance + _ONE
    return ((np.float32(-0.5) * distance + np.float32(2.5)) * distance - np.float32(4)) * distance + np.float32(2)


@exact
def _taps(output: int, length: int, size: int, cubic: bool, weights: np.ndarray) -> tuple[int, int]:
    """The taps of one output pixel of `size`, made from a piece of `length`: the first, and how many; into `weights`."""
    scale = np.float32(length) / np.float32(size)
    stretch = max(scale, _ONE)
    inverse = np.float64(_ONE / stretch)
    centre = np.float32(np.float64(scale) * (np.float64(output) + 0.5))
    # A hair more than the filter's reach, so that no rounding loses a tap; a tap too many has weight zero.
    reach = np.float64(stretch) * (2.0 if cubic else 1.0) + 0.01
    first = max(math.ceil(np.float64(centre) - 0.5 - reach), 0)
    end = min(math.floor(np.float64(centre) - 0.5 + reach) + 1, length)
    total = _ZERO
    for place in range(first, end):
        weight = _tap(place, centre, inverse, cubic)
        weights[place - first] = weight
        total += weight
    for tap in range(end - first):
        weights[tap] /= total
    return first, end - first


@exact
def _bands(length: int, size: int, cubic: bool, mirrored: bool, line: np.ndarray, starts: np.ndarray, bands: np.ndarray) -> None:
    """Weights for `_weigh`: block k of LANES outputs reads `starts[k, 1]` inputs from `starts[k, 0]` on; its weights
    are at `starts[k, 2]` of `bands`. `mirrored`: the outputs in opposite order.
    """  # fmt: skip
    at = 0
    for block in range((size + LANES - 1) // LANES):
        here = min(LANES, size - block * LANES)
        one, other = block * LANES, block * LANES + here - 1  # the block's ends lie furthest apart
        if mirrored:
            one, other = size - 1 - other, size - 1 - one
        low, _ = _taps(one, length, size, cubic, line)
        last, count = _taps(other, length, size, cubic, line)
        span = last + count - low
        for place in range(at, at + span * LANES):
            bands[place] = _ZERO
        for lane in range(here):
            output = block * LANES + lane
            first, count = _taps(size - 1 - output if mirrored else output, length, size, cubic, line)
            for tap in range(count):
                bands[at + (first + tap - low) * LANES + lane] = line[tap]
        starts[block, 0], starts[block, 1], starts[block, 2] = low, span, at
        at += span * LANES


# ----------------------------------------------------------------------------------------------- colour


@pixels
def _clamp(value: np.float32) -> np.float32:
    return min(max(value, _ZERO), _ONE)


@pixels
def _scale(r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32) -> None:
    for i in range(r.size):
        r[i] = _clamp(r[i] * factor)
        g[i] = _clamp(g[i] * factor)
        b[i] = _clamp(b[i] * factor)


@pixels
def _towards(r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32, mean: np.float32) -> None:
    rest = mean * (_ONE - factor)
    for i in range(r.size):
        r[i] = _clamp(r[i] * factor + rest)
        g[i] = _clamp(g[i] * factor + rest)
        b[i] = _clamp(b[i] * factor + rest)


@pixels
def _saturate(r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32) -> None:
    for i in range(r.size):
        rest = (r[i] * _RED + g[i] * _GREEN + b[i] * _BLUE) * (_ONE - factor)
        r[i] = _clamp(r[i] * factor + rest)
        g[i] = _clamp(g[i] * factor + rest)
        b[i] = _clamp(b[i] * factor + rest)


@pixels
def _trapezoid(sector: np.float32, value: np.float32, chroma: np.float32) -> np.float32:
    k = sector - np.float32(6) * np.floor(sector * np.float32(1 / 6))
    return value - chroma * _clamp(min(k, np.float32(4) - k))


@pixels
def _turn(r: np.ndarray, g: np.ndarray, b: np.ndarray, shift: np.float32) -> None:
    turned = shift * np.float32(6)  # in sixths
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        value = max(max(red, green), blue)
        chroma = value - min(min(red, green), blue)
        inverse = _ONE / (chroma if chroma > _ZERO else _ONE)
        sector = (red - green) * inverse + np.float32(4)
        sector = (blue - red) * inverse + np.float32(2) if value == green else sector
        sector = (green - blue) * inverse if value == red else sector
        sector += turned
        r[i] = _trapezoid(sector + np.float32(5), value, chroma)
        g[i] = _trapezoid(sector + np.float32(3), value, chroma)
        b[i] = _trapezoid(sector + _ONE, value, chroma)


@pixels
def _drain(r: np.ndarray, g: np.ndarray, b: np.ndarray) -> None:
    for i in range(r.size):
        luma = r[i] * _RED + g[i] * _GREEN + b[i] * _BLUE
        r[i] = luma
        g[i] = luma
        b[i] = luma


@pixels
def _solarize(x: np.ndarray) -> None:
    for i in range(x.size):
        x[i] = _ONE - x[i] if x[i] >= np.float32(0.5) else x[i]


def _total_luma(r: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.float32:
    total = _ZERO
    for i in range(r.size):
        total += r[i] * _RED + g[i] * _GREEN + b[i] * _BLUE
    return total


_total_luma = _compiled(_total_luma, fastmath=_PIXELS | {"reassoc"})


@pixels
def _apply(kind: int, r: np.ndarray, g: np.ndarray, b: np.ndarray, factor: np.float32) -> None:
    if kind == BRIGHTNESS:
        _scale(r, g, b, factor)
    elif kind == SATURATION:
        _saturate(r, g, b, factor)
    elif kind == HUE:
        _turn(r, g, b, factor)
    elif kind == GREY:
        _drain(r, g, b)
    else:
        _solarize(r)
        _solarize(g)
        _solarize(b)


# ------------------------------------------------------------------------------------------------- blur


@exact
def _gaussian(sigma: np.float32, half: int, weights: np.ndarray) -> int:
    """Half a normalised Gaussian, its centre first; returns how far it reaches before it is negligible."""
    total = _ZERO
    for d in range(half + 1):
        ratio = np.float32(d) / sigma
        weights[d] = np.float32(math.exp(np.float32(-0.5) * (ratio * ratio)))
        total += weights[d] * np.float32(1 if d == 0 else 2)
    reach = 0
    for d in range(half + 1):
        weights[d] /= total
        if weights[d] > _NEGLIGIBLE:
            reach = d
    return reach


@pixels
def _smooth_row(out: np.ndarray, to: int, source: np.ndarray, at: int, step: int, pitch: int, weights: np.ndarray, reach: int) -> None:
    """A row of `pitch` outputs, filtered along `step`."""
    wide = pitch // (4 * LANES) * (4 * LANES)
    for i in range(0, wide, 4 * LANES):
        _smooth_4(out, to + i, source, at + i, step, weights, reach)
    for i in range(wide, pitch, LANES):
        _smooth(out, to + i, source, at + i, step, weights, reach)


@pixels
def _blur_across(x: np.ndarray, y: np.ndarray, size: int, pitch: int, reach: int, weights: np.ndarray, line: np.ndarray) -> None:
    """x [3 · size · pitch] → y [3 · (size + 2 · reach) · pitch]: rows smoothed, mirrored rows added above and below."""
    end = size - 1
    for c in range(3):
        top = c * (size + 2 * reach)
        for row in range(size):
            source = x[(c * size + row) * pitch : (c * size + row) * pitch + size]
            for i in range(size):
                line[reach + i] = source[i]
            for d in range(1, reach + 1):
                line[reach - d] = source[end - abs(end - d)]
                line[reach + end + d] = source[abs(end - d)]
            to = (top + reach + row) * pitch
            _smooth_row(y, to, line, reach, 1, pitch, weights, reach)
        for d in range(1, reach + 1):
            above = (top + reach + end - abs(end - d)) * pitch
            below = (top + reach + abs(end - d)) * pitch
            for i in range(pitch):
                y[(top + reach - d) * pitch + i] = y[above + i]
            for i in range(pitch):
                y[(top + reach + end + d) * pitch + i] = y[below + i]


@pixels
def _blur_down(y: np.ndarray, x: np.ndarray, size: int, pitch: int, reach: int, weights: np.ndarray, first: int, end: int) -> None:
    """Rows `first` to `end` of x from y, as `_blur_across` left it."""
    for c in range(3):
        for row in range(first, end):
            at = (c * (size + 2 * reach) + reach + row) * pitch
            to = (c * size + row) * pitch
            _smooth_row(x, to, y, at, pitch, pitch, weights, reach)


# ------------------------------------------------------------------------------------------------ source


@pixels
def _unit(data: np.ndarray, row: np.ndarray) -> None:
    """Bytes as float32 in [0, 1]."""
    for i in range(data.size):
        row[i] = np.float32(data[i]) * _UNIT


@pixels
def _rotate(source: np.ndarray, height: int, width: int, box: np.ndarray, angle: np.float32, fill: np.float32, out: np.ndarray) -> None:
    """The crop `box` of a planar picture rotated about the box's centre: [3 · height · width] → [3 · h · w] (see reference)."""
    top, left, h, w = box[0], box[1], box[2], box[3]
    radians = math.radians(np.float64(angle))
    cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
    middle_x = np.float32(left) + np.float32(w) / np.float32(2)
    middle_y = np.float32(top) + np.float32(h) / np.float32(2)
    for i in range(h):
        dy = np.float32(i) + np.float32(0.5) - np.float32(h) / np.float32(2)
        for j in range(w):
            dx = np.float32(j) + np.float32(0.5) - np.float32(w) / np.float32(2)
            x = (cos * dx - sin * dy + middle_x) - np.float32(0.5)
            y = (sin * dx + cos * dy + middle_y) - np.float32(0.5)
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            fx, fy = x - np.float32(x0), y - np.float32(y0)
            share = red = green = blue = _ZERO
            for corner in range(4):
                xc, yc = x0 + (corner & 1), y0 + (corner >> 1)
                if 0 <= xc < width and 0 <= yc < height:
                    weight = (fx if corner & 1 else _ONE - fx) * (fy if corner >> 1 else _ONE - fy)
                    at = yc * width + xc
                    share += weight
                    red += weight * source[at]
                    green += weight * source[height * width + at]
                    blue += weight * source[2 * height * width + at]
            at = i * w + j
            out[at] = (red - fill) * share + fill
            out[h * w + at] = (green - fill) * share + fill
            out[2 * h * w + at] = (blue - fill) * share + fill


@pixels
def _pack(canvas: np.ndarray, height: int, width: int, first: int, end: int, packed: np.ndarray) -> None:
    """Lines `first` to `end` of an image as 32-bit pixels, red lowest and 255 on top.

    Line y begins at (y + 1) · (width + 3), with an empty pixel before and two after it; lines outside are empty.
    """
    pitch = width + 3
    for y in range(first, end):
        target = packed[(y + 1) * pitch : (y + 2) * pitch]
        target[:] = 0
        if 0 <= y < height:
            source, inside = canvas[y], target[1 : width + 1]
            for x in range(width):
                red, green, blue = np.uint32(source[x, 0]), np.uint32(source[x, 1]), np.uint32(source[x, 2])
                inside[x] = red | green << np.uint32(8) | blue << np.uint32(16) | np.uint32(0xFF000000)


@pixels
def _between(a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32, shift: int, fx: np.float32, fy: np.float32) -> np.float32:
    """One channel of four packed pixels, bilinear, in [0, 1]."""
    mask, bits = np.uint32(255), np.uint32(shift)
    p, q = np.float32(np.int32((a >> bits) & mask)), np.float32(np.int32((b >> bits) & mask))
    r, s = np.float32(np.int32((c >> bits) & mask)), np.float32(np.int32((d >> bits) & mask))
    upper, lower = p + fx * (q - p), r + fx * (s - r)
    return (upper + fy * (lower - upper)) * _UNIT


@pixels
def _rotate_bytes(canvas: np.ndarray, height: int, width: int, box: np.ndarray, angle: np.float32, fill: np.float32,
                  packed: np.ndarray, lines: np.ndarray, out: np.ndarray) -> None:
    """As `_rotate`, straight from a canvas. What lies outside the image is pixels of nothing, so nothing branches.

    A line takes three loops, of which the first and the last run on vector registers.
    """
    top, left, h, w = box[0], box[1], box[2], box[3]
    radians = math.radians(np.float64(angle))
    cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
    middle_x = np.float32(left) + np.float32(w) / np.float32(2)
    middle_y = np.float32(top) + np.float32(h) / np.float32(2)
    reach = (abs(sin) * np.float32(w) + abs(cos) * np.float32(h)) / np.float32(2) + np.float32(2)
    first = min(max(math.floor(middle_y - reach), -1), height)
    _pack(canvas, height, width, first, max(min(math.ceil(middle_y + reach), height) + 2, 0), packed)
    half, far_x, far_y = np.float32(0.5), np.float32(width), np.float32(height)
    fx, fy = lines[:w], lines[w : 2 * w]
    column, line = lines[2 * w : 3 * w].view(np.uint32), lines[7 * w : 8 * w].view(np.uint32)
    a, b = lines[3 * w : 4 * w].view(np.uint32), lines[4 * w : 5 * w].view(np.uint32)
    c, d = lines[5 * w : 6 * w].view(np.uint32), lines[6 * w : 7 * w].view(np.uint32)
    row = np.uint64(width + 3)
    for i in range(h):
        dy = np.float32(i) + half - np.float32(h) / np.float32(2)
        start_x, start_y = middle_x - sin * dy, middle_y + cos * dy
        for j in range(w):
            dx = np.float32(np.int32(j)) + half - np.float32(w) / np.float32(2)
            x = min(max((cos * dx + start_x) - half, -_ONE), far_x)
            y = min(max((sin * dx + start_y) - half, -_ONE), far_y)
            x0, y0 = np.floor(x), np.floor(y)
            fx[j], fy[j] = x - x0, y - y0
            column[j], line[j] = np.uint32(np.int32(x0 + _ONE)), np.uint32(np.int32(y0 + _ONE))
        for j in range(w):
            at = np.uint64(line[j]) * row + np.uint64(column[j])
            a[j], b[j] = packed[at], packed[at + np.uint64(1)]
            c[j], d[j] = packed[at + row], packed[at + row + np.uint64(1)]
        red, green, blue = out[i * w : i * w + w], out[(h + i) * w : (h + i) * w + w], out[(2 * h + i) * w : (2 * h + i) * w + w]
        for j in range(w):
            share = _between(a[j], b[j], c[j], d[j], 24, fx[j], fy[j])
            red[j] = (_between(a[j], b[j], c[j], d[j], 0, fx[j], fy[j]) - fill) * share + fill
            green[j] = (_between(a[j], b[j], c[j], d[j], 8, fx[j], fy[j]) - fill) * share + fill
            blue[j] = (_between(a[j], b[j], c[j], d[j], 16, fx[j], fy[j]) - fill) * share + fill


@pixels
def _load_image(canvas: np.ndarray, height: int, width: int, out: np.ndarray) -> None:
    """The whole image of a canvas, planar float32."""
    r, g, b = out[: height * width], out[height * width : 2 * height * width], out[2 * height * width :]
    for y in range(height):
        source, at = canvas[y], y * width
        for x in range(width):
            r[at + x] = np.float32(source[x, 0]) * _UNIT
            g[at + x] = np.float32(source[x, 1]) * _UNIT
            b[at + x] = np.float32(source[x, 2]) * _UNIT


@pixels
def _colour_whole(x: np.ndarray, count: int, ops: np.ndarray, factors: np.ndarray, n: int) -> None:
    """Operations before the crop: on a whole planar picture of `count` pixels."""
    r, g, b = x[:count], x[count : 2 * count], x[2 * count : 3 * count]
    for k in range(n):
        if ops[k] == CONTRAST:
            total = 0.0
            for start in range(0, count, TILE):
                end = min(start + TILE, count)
                total += _total_luma(r[start:end], g[start:end], b[start:end])
            _towards(r, g, b, factors[k], np.float32(total / count))
        else:
            _apply(ops[k], r, g, b, factors[k])


# -------------------------------------------------------------------------------------------------- view


@exact
def _plan(spec_order: np.ndarray, first: int, end: int, strengths: np.ndarray, jitter: bool, order: np.ndarray,
          values: np.ndarray, grey: bool, sigma: np.float32, solarize: bool, ops: np.ndarray, factors: np.ndarray) -> int:
    """The operations one view drew among the steps `first` to `end` of `ViewSpec.order`; returns how many."""
    n = 0
    for step in range(first, end):
        kind = spec_order[step]
        if kind == JITTER_STEP and jitter:
            for k in range(4):
                if strengths[order[k]] != _ZERO:
                    ops[n], factors[n] = order[k], values[order[k]]
                    n += 1
        elif kind == GREY_STEP and grey:
            ops[n] = GREY
            n += 1
        elif kind == BLUR_STEP and sigma > _ZERO:
            ops[n], factors[n] = BLUR, sigma
            n += 1
        elif kind == SOLARIZE_STEP and solarize:
            ops[n] = SOLARIZE
            n += 1
    return n


@pixels
def _write(x: np.ndarray, out: np.ndarray, size: int, pitch: int, first: int, end: int, vflip: bool, turns: int,
           mean: np.ndarray, inverse: np.ndarray) -> None:
    """Normalise rows into out [3, S, S], upside down or turned by quarters where the view drew it."""
    last = size - 1
    for c in range(3):
        m, s = mean[c], inverse[c]
        for row in range(first, end):
            source = x[(c * size + row) * pitch : (c * size + row) * pitch + size]
            y = last - row if vflip else row
            if turns == 0:
                target = out[c, y]
                for i in range(size):
                    target[i] = (source[i] - m) * s
            elif turns == 1:
                for i in range(size):
                    out[c, last - i, y] = (source[i] - m) * s
            elif turns == 2:
                target = out[c, last - y]
                for i in range(size):
                    target[last - i] = (source[i] - m) * s
            else:
                for i in range(size):
                    out[c, i, last - y] = (source[i] - m) * s


@pixels
def _mix(ring: np.ndarray, slots: int, first: int, count: int, weights: np.ndarray, plane: int, out: np.ndarray,
         out_plane: int, cubic: bool) -> None:
    """One output row of three channels from the ring of rows that are resized across."""
    for c in range(3):
        target = out[c * out_plane : c * out_plane + plane]
        for tap in range(0, count, 3):  # three rows at a time, the sum in registers
            here = min(3, count - tap)
            p = _slot(ring, slots, first + tap, c, plane)
            q = _slot(ring, slots, first + tap + min(1, here - 1), c, plane)
            r = _slot(ring, slots, first + tap + min(2, here - 1), c, plane)
            u = weights[tap]
            v = weights[tap + 1] if here > 1 else _ZERO
            w = weights[tap + 2] if here > 2 else _ZERO
            if tap == 0:
                for i in range(plane):
                    target[i] = p[i] * u + q[i] * v + r[i] * w
            else:
                for i in range(plane):
                    target[i] += p[i] * u + q[i] * v + r[i] * w
        if cubic:  # its taps leave [0, 1]
            for i in range(plane):
                target[i] = _clamp(target[i])


@pixels
def _slot(ring: np.ndarray, slots: int, row: int, channel: int, plane: int) -> np.ndarray:
    at = ((row % slots) * 3 + channel) * plane
    return ring[at : at + plane]


@pixels
def _resize(canvas: np.ndarray, planar: bool, picture: np.ndarray, start: int, step: int, plane: int, height: int, width: int,
            cubic: bool, row: np.ndarray, line: np.ndarray, ring: np.ndarray, slots: int, ready: int, starts: np.ndarray,
            bands: np.ndarray, x: np.ndarray, size: int, pitch: int, first: int, end: int) -> int:
    """Output rows `first` to `end` of a crop, into x; returns how many of the crop's rows are resized across so far.

    Row y of the crop begins at start + y · step of a canvas of bytes, or, if `planar`, at c · plane more for
    channel c of a picture.
    """
    for output in range(first, end):
        low, count = _taps(output, height, size, cubic, line)
        while ready < low + count:
            slot = (ready % slots) * 3 * pitch
            if planar:
                at = start + ready * step
                for block in range(starts.shape[0]):
                    _weigh(ring, slot + block * LANES, pitch, bands, starts[block, 2], picture, at + starts[block, 0],
                           plane, 1, starts[block, 1])
            else:
                _unit(canvas[start + ready * step : start + ready * step + 3 * width], row)
                for block in range(starts.shape[0]):
                    _weigh(ring, slot + block * LANES, pitch, bands, starts[block, 2], row, 3 * starts[block, 0],
                           1, 3, starts[block, 1])
            ready += 1
        _mix(ring, slots, low, count, line, pitch, x[output * pitch :], size * pitch, cubic)
    return ready


def _render(canvases: np.ndarray, source: np.ndarray, image_size: np.ndarray, boxes: np.ndarray, angle: np.ndarray,
            hflip: np.ndarray, vflip: np.ndarray, turns: np.ndarray, jitter: np.ndarray, factors: np.ndarray,
            order: np.ndarray, grey: np.ndarray, sigma: np.ndarray, solarize: np.ndarray, spec_order: np.ndarray,
            strengths: np.ndarray, half: int, cubic: bool, rotates: bool, fill: np.float32, mean: np.ndarray,
            inverse: np.ndarray, slots: int, reaches: int, scratch: np.ndarray, out: np.ndarray, counter: np.ndarray, share: int) -> None:
    """Render rows of a table into out [N, 3, S, S]: `share` at a time, from `counter` on, until there are none left.

    Threads with the same counter divide the work among them. cpu.py makes the arguments.
    """
    size = out.shape[2]
    pitch = (size + LANES - 1) // LANES * LANES
    extent = canvases.shape[1]
    blocks = pitch // LANES
    crop_step = 0
    while spec_order[crop_step] != CROP_STEP:
        crop_step += 1

    # The scratch, piece by piece; `cpu.scratch_floats` counts the same.
    at = 0
    x = scratch[at : at + 3 * size * pitch]
    at += 3 * size * pitch
    y = scratch[at : at + 3 * (size + 2 * half) * pitch]
    at += 3 * (size + 2 * half) * pitch
    ring = scratch[at : at + slots * 3 * pitch]
    at += slots * 3 * pitch
    bands = scratch[at : at + blocks * reaches * LANES]
    at += blocks * reaches * LANES
    row = scratch[at : at + 3 * extent]
    at += 3 * extent
    line = scratch[at : at + extent + pitch + 2 * half + 2 * LANES]
    at += extent + pitch + 2 * half + 2 * LANES
    weights = scratch[at : at + half + 1]
    at += half + 1
    image = scratch[at : at + 3 * (extent + 3) * (extent + 3)] if rotates or crop_step else scratch[:0]
    at += image.size
    lines = scratch[at : at + 8 * extent] if rotates else scratch[:0]
    at += lines.size
    turned = scratch[at : at + 3 * extent * extent] if rotates else scratch[:0]

    starts = np.empty((blocks, 3), np.intp)
    early, late = np.empty(8, np.int64), np.empty(8, np.int64)
    early_factors, late_factors = np.empty(8, np.float32), np.empty(8, np.float32)
    rows_a_tile = max(1, TILE // pitch)
    while True:
        start = _claim(counter, share)
        if start >= len(source):
            break
        for n in range(start, min(start + share, len(source))):
            canvas = canvases[source[n]]
            height, width = image_size[n, 0], image_size[n, 1]
            top, left, box_height, box_width = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
            early_ops = _plan(spec_order, 0, crop_step, strengths, jitter[n], order[n], factors[n], grey[n],
                              _ZERO, False, early, early_factors)
            ops = _plan(spec_order, crop_step + 1, len(spec_order), strengths, jitter[n], order[n], factors[n], grey[n],
                        sigma[n], solarize[n], late, late_factors)

            planar = rotates or early_ops > 0  # else rows are read straight from the canvas
            picture, plane, start_of_crop, row_step = row, 0, 3 * (top * extent + left), 3 * extent
            if early_ops > 0:
                _load_image(canvas, height, width, image)
                _colour_whole(image, height * width, early, early_factors, early_ops)
                picture, plane, start_of_crop, row_step = image, height * width, top * width + left, width
                if rotates:
                    _rotate(image, height, width, boxes[n], angle[n], fill, turned)
            elif rotates:
                _rotate_bytes(canvas, height, width, boxes[n], angle[n], fill, image.view(np.uint32), lines, turned)
            if rotates:
                picture, plane, start_of_crop, row_step = turned, box_height * box_width, 0, box_width

            _bands(box_width, size, cubic, hflip[n], line, starts, bands)
            ready = 0  # rows of the crop that are resized across
            phase, i, reach = _RESIZE, 0, 0
            factor = luma = _ZERO
            while True:
                j = i
                while j < ops and late[j] != CONTRAST and late[j] != BLUR:
                    j += 1
                total = 0.0
                for first in range(0, size, rows_a_tile):
                    end = min(first + rows_a_tile, size)
                    if phase == _RESIZE:
                        ready = _resize(canvas.reshape(-1), planar, picture, start_of_crop, row_step, plane, box_height, box_width,
                                        cubic, row, line, ring, slots, ready, starts, bands, x, size, pitch, first, end)
                    elif phase == _BLURRED:
                        _blur_down(y, x, size, pitch, reach, weights, first, end)
                    r = x[first * pitch : end * pitch]
                    g = x[(size + first) * pitch : (size + end) * pitch]
                    b = x[(2 * size + first) * pitch : (2 * size + end) * pitch]
                    if phase == _CONTRASTED:
                        _towards(r, g, b, factor, luma)
                    for k in range(i, j):
                        _apply(late[k], r, g, b, late_factors[k])
                    if j == ops:
                        _write(x, out[n], size, pitch, first, end, vflip[n], turns[n], mean, inverse)
                    elif late[j] == CONTRAST:
                        total += _total_luma(r, g, b)
                if j == ops:
                    break
                if late[j] == CONTRAST:
                    phase, factor, luma = _CONTRASTED, late_factors[j], np.float32(total / (size * size))
                else:
                    phase = _BLURRED
                    reach = _gaussian(late_factors[j], half, weights)
                    _blur_across(x, y, size, pitch, reach, weights, line)
                i = j + 1




render_rows = _compiled(_render, fastmath=False, entry=True)
