"""Colour operations on a block of a view's pixels, and where the block is written.

Every branch on a row of the table is a branch on a scalar, the same for a whole program. Planes of scratch hold
float32 in [0, 1], three a view, one after another; a plane of a canvas or a crop has rows of that view's own width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of a kernel's arguments as they stand, so they stay evaluated.

import triton
import triton.language as tl

from sslpipe.views.render.triton.layout import FACTORS

# A code is a row of operations, four bits each from the lowest, and in its highest bits where the pixels go.
BRIGHTNESS, CONTRAST, SATURATION, HUE = (tl.constexpr(k) for k in (1, 2, 3, 4))
GREY, SOLARIZE, BLUR = (tl.constexpr(k) for k in (5, 6, 7))  # a blur ends a code
OPERATIONS = tl.constexpr((1 << 28) - 1)
GOAL = tl.constexpr(28)
MOST = tl.constexpr(7)  # operations a code
TO_OUT, TO_CONTRAST, TO_BLUR = (tl.constexpr(k) for k in (0, 1, 2))

#: The code of each step of `ViewSpec.order` that is one operation: all but the crop, and jitter, which is four.
STEPS = {"grey": GREY, "blur": BLUR, "solarize": SOLARIZE}


@triton.jit
def clamp(x):
    """To [0, 1]."""
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def luma(r, g, b):
    """As `reference.grey`."""
    return 0.2989 * r + 0.587 * g + 0.114 * b


@triton.jit
def blend(r, g, b, other, factor):
    """Away from `other`."""
    other *= 1 - factor
    return clamp(r * factor + other), clamp(g * factor + other), clamp(b * factor + other)


@triton.jit
def trapezoid(sector, value, chroma):
    """A channel of a hue, given in sixths of a turn from where the channel begins to fall."""
    sector -= 6 * tl.floor(sector * (1 / 6))
    return value - chroma * clamp(tl.minimum(sector, 4 - sector))


@triton.jit
def turn_hue(r, g, b, shift):
    """By `shift` turns of the colour wheel."""
    value = tl.maximum(tl.maximum(r, g), b)
    chroma = value - tl.minimum(tl.minimum(r, g), b)
    red, green = value == r, value == g
    rise = tl.where(red, g - b, tl.where(green, b - r, r - g))
    sector = tl.where(red, 0.0, tl.where(green, 2.0, 4.0)) + rise / tl.where(chroma == 0, 1.0, chroma)
    sector += 6 * shift
    return (
        trapezoid(sector + 5, value, chroma),
        trapezoid(sector + 3, value, chroma),
        trapezoid(sector + 1, value, chroma),
    )


@triton.jit
def colour(r, g, b, code, row, inside, PIXELS: tl.constexpr, WHOLE: tl.constexpr):
    """The operations of a code, on a block of pixels of which those `inside` are the view's.

    PIXELS: how many a view has. WHOLE: the block is the whole view, so contrast may be among the operations.
    """
    code &= OPERATIONS
    while code != 0:
        operation = code & 15
        factor = tl.load(row + FACTORS + operation - 1).to(tl.float32, bitcast=True)
        if operation == BRIGHTNESS:
            r, g, b = clamp(r * factor), clamp(g * factor), clamp(b * factor)
        elif operation == CONTRAST:
            if WHOLE:
                mean = tl.sum(tl.where(inside, luma(r, g, b), 0.0)) / PIXELS
                r, g, b = blend(r, g, b, mean, factor)
        elif operation == SATURATION:
            r, g, b = blend(r, g, b, luma(r, g, b), factor)
        elif operation == HUE:
            r, g, b = turn_hue(r, g, b, factor)
        elif operation == GREY:
            grey = luma(r, g, b)
            r, g, b = grey, grey, grey
        else:
            r = tl.where(r >= 0.5, 1 - r, r)
            g = tl.where(g >= 0.5, 1 - g, g)
            b = tl.where(b >= 0.5, 1 - b, b)
        code >>= 4
    return r, g, b


@triton.jit
def emit(
    r, g, b, code, place, inside, view, tile, out, out_stride, scratch, sums, mean, inverse,
    SIZE: tl.constexpr, PARTS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Write a block of pixels where its code says; the operations of the code are done.

    Args:
        place: of each pixel in the view, row by row.
        inside: which of them are pixels of the view.
        tile: number of the block among the view's PARTS blocks.
    """
    goal = code >> GOAL
    if goal == TO_OUT:
        at = out + view.to(tl.int64) * out_stride
        step = 1 if LAST else SIZE * SIZE
        at += place * (3 if LAST else 1)
        kind: tl.constexpr = out.dtype.element_ty
        tl.store(at, ((r - mean[0]) * inverse[0]).to(kind), mask=inside)
        tl.store(at + step, ((g - mean[1]) * inverse[1]).to(kind), mask=inside)
        tl.store(at + 2 * step, ((b - mean[2]) * inverse[2]).to(kind), mask=inside)
    else:
        put(scratch + view.to(tl.int64) * (3 * SIZE * SIZE) + place, SIZE * SIZE, r, g, b, inside)
        if goal == TO_CONTRAST:
            tl.store(sums + view * PARTS + tile, tl.sum(tl.where(inside, luma(r, g, b), 0.0)))


@triton.jit
def put(at, plane, r, g, b, inside):
    """Write pixels to float planes."""
    tl.store(at, r, mask=inside)
    tl.store(at + plane, g, mask=inside)
    tl.store(at + 2 * plane, b, mask=inside)


@triton.jit
def get(at, plane, inside):
    """Read pixels from float planes, or bytes with the channels `plane` apart."""
    r = tl.load(at, mask=inside, other=0)
    g = tl.load(at + plane, mask=inside, other=0)
    b = tl.load(at + 2 * plane, mask=inside, other=0)
    return r.to(tl.float32), g.to(tl.float32), b.to(tl.float32)


@triton.jit
def mean_luma(sums, parts, count, BLOCK: tl.constexpr):
    """The mean of `count` pixels from the sums of their `parts` blocks, always added in the same order."""
    total = tl.full([BLOCK], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK)
    for start in range(0, parts, BLOCK):
        total += tl.load(sums + start + lane, mask=start + lane < parts, other=0)
    return tl.sum(total) / count
