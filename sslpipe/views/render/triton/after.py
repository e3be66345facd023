"""After the resize: contrast, which waits for the mean of the view, the blur, and the operations after each."""
# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of a kernel's arguments as they stand, so they stay evaluated.

import triton
import triton.language as tl

from sslpipe.views.render.triton.colour import blend, colour, emit, get, mean_luma, put
from sslpipe.views.render.triton.layout import (
    FACTORS,
    HAS_BLUR,
    HAS_CONTRAST,
    LATE_BLUR,
    LATE_CONTRAST,
    RADIUS,
    SHARPNESS,
    WORDS,
)


@triton.jit
def contrast(
    table, out, out_stride, scratch, sums, mean, inverse,
    SIZE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Contrast and the operations after it."""
    pixels: tl.constexpr = SIZE * SIZE
    parts: tl.constexpr = ((SIZE + TILE - 1) // TILE) * ((SIZE + TILE - 1) // TILE)
    blocks: tl.constexpr = (pixels + BLOCK - 1) // BLOCK
    view = tl.load(table + tl.program_id(0) // blocks * WORDS + HAS_CONTRAST)
    block = tl.program_id(0) % blocks
    row = table + view * WORDS
    place = block * BLOCK + tl.arange(0, BLOCK)
    inside = place < pixels
    r, g, b = get(scratch + view.to(tl.int64) * (3 * pixels) + place, pixels, inside)
    grey = mean_luma(sums + view * parts, parts, pixels, 128)
    r, g, b = blend(r, g, b, grey, tl.load(row + FACTORS + 1).to(tl.float32, bitcast=True))
    code = tl.load(row + LATE_CONTRAST)
    r, g, b = colour(r, g, b, code, row, inside, pixels, False)
    emit(
        r, g, b, code, place, inside, view, block, out, out_stride, scratch, sums, mean, inverse, SIZE, parts, LAST
    )  # fmt: skip


@triton.jit
def blur(
    table, half, out, out_stride, scratch, sums, mean, inverse,
    SIZE: tl.constexpr, TILE: tl.constexpr, REACH: tl.constexpr, SECOND: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """One axis of the Gaussian blur, and after the second the operations that follow.

    A program blurs along columns, whose neighbours are read together, and writes rows as columns: so twice the
    same is both axes, the right way round.

    Args:
        half: float32 [B, 3, S, S], views blurred along one axis, for the rows of the table that are in its list.
        REACH: a power of two above every radius.
        SECOND: from `half` to where the code says, else from scratch to `half`.
    """
    side_tiles: tl.constexpr = (SIZE + TILE - 1) // TILE
    parts: tl.constexpr = side_tiles * side_tiles
    pixels: tl.constexpr = SIZE * SIZE
    listed, tile = tl.program_id(0) // parts, tl.program_id(0) % parts
    view = tl.load(table + listed * WORDS + HAS_BLUR)
    row = table + view * WORDS
    p = tile // side_tiles * TILE + tl.arange(0, TILE)
    q = tile % side_tiles * TILE + tl.arange(0, TILE)
    inside = (p < SIZE)[:, None] & (q < SIZE)[None, :]
    near = tl.minimum(p, SIZE - 1)
    half += listed.to(tl.int64) * (3 * pixels)
    scratch_at = scratch + view.to(tl.int64) * (3 * pixels)
    at = (half if SECOND else scratch_at) + q[None, :]

    sharpness = tl.load(row + SHARPNESS).to(tl.float32, bitcast=True)
    radius = tl.load(row + RADIUS)
    r, g, b = get(at + (near * SIZE)[:, None], pixels, inside)
    for k in range(1, radius + 1):
        weight = tl.exp(-0.5 * (k * sharpness) * (k * sharpness))
        # Mirrored at the borders; a radius is below the size, so once is enough.
        above = tl.abs(near - k)
        below = (SIZE - 1) - tl.abs((SIZE - 1) - (near + k))
        ar, ag, ab = get(at + (above * SIZE)[:, None], pixels, inside)
        br, bg, bb = get(at + (below * SIZE)[:, None], pixels, inside)
        r += weight * (ar + br)
        g += weight * (ag + bg)
        b += weight * (ab + bb)
    lane = tl.arange(0, REACH)
    weights = tl.exp(-0.5 * (lane * sharpness) * (lane * sharpness))
    share = 1 / (2 * tl.sum(tl.where(lane <= radius, weights, 0.0)) - 1)
    r, g, b = r * share, g * share, b * share

    place = q[None, :] * SIZE + p[:, None]
    if SECOND:
        code = tl.load(row + LATE_BLUR)
        r, g, b = colour(r, g, b, code, row, inside, pixels, parts == 1)
        emit(
            r, g, b, code, place, inside, view, tile, out, out_stride, scratch, sums, mean, inverse, SIZE, parts, LAST
        )  # fmt: skip
    else:
        put(half + place, pixels, r, g, b, inside)
