"""Before the crop: whole images as float planes, and the colour operations on them."""
# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of a kernel's arguments as they stand, so they stay evaluated.

import triton
import triton.language as tl

from sslpipe.views.render.triton.colour import GOAL, TO_CONTRAST, blend, colour, get, luma, mean_luma, put
from sslpipe.views.render.triton.layout import (
    EARLY,
    EARLY_CONTRAST,
    FACTORS,
    HAS_EARLY_CONTRAST,
    IMAGE,
    SOURCE,
    WORDS,
)


@triton.jit(do_not_specialize=["side", "plane", "blocks"])
def begin(pixels, table, canvas, sums, side, plane, blocks, BLOCK: tl.constexpr):
    """Whole images as float planes, with the operations that come before the crop, up to contrast.

    Args:
        pixels: uint8 [M, side, side, 3].
        canvas: float32 [N, 3, plane].
    """
    view, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row = table + view * WORDS
    width = tl.load(row + IMAGE + 1)
    count = tl.load(row + IMAGE) * width
    if block * BLOCK >= count:
        return
    place = block * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    y = place // width
    at = pixels + tl.load(row + SOURCE).to(tl.int64) * (side * side * 3)
    r, g, b = get(at + (y * side + (place - y * width)) * 3, 1, inside)
    code = tl.load(row + EARLY)
    r, g, b = colour(r * (1 / 255), g * (1 / 255), b * (1 / 255), code, row, inside, 1, False)
    put(canvas + view.to(tl.int64) * 3 * plane + place, plane, r, g, b, inside)
    if code >> GOAL == TO_CONTRAST:
        tl.store(sums + view * blocks + block, tl.sum(tl.where(inside, luma(r, g, b), 0.0)))


@triton.jit(do_not_specialize=["plane", "blocks"])
def early_contrast(table, canvas, sums, plane, blocks, BLOCK: tl.constexpr):
    """Contrast on whole images, float32 [N, 3, plane] in place, and what comes between it and the crop."""
    view = tl.load(table + tl.program_id(0) // blocks * WORDS + HAS_EARLY_CONTRAST)
    block = tl.program_id(0) % blocks
    row = table + view * WORDS
    count = tl.load(row + IMAGE) * tl.load(row + IMAGE + 1)
    if block * BLOCK >= count:
        return
    place = block * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    at = canvas + view.to(tl.int64) * 3 * plane + place
    r, g, b = get(at, plane, inside)
    mean = mean_luma(sums + view * blocks, (count + BLOCK - 1) // BLOCK, count, 128)
    r, g, b = blend(r, g, b, mean, tl.load(row + FACTORS + 1).to(tl.float32, bitcast=True))
    r, g, b = colour(r, g, b, tl.load(row + EARLY_CONTRAST), row, inside, 1, False)
    put(at, plane, r, g, b, inside)
