"""From canvases to views: taps, rotated crops, and the resize with all that is done in the same registers."""
# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of a kernel's arguments as they stand, so they stay evaluated.

import triton
import triton.language as tl

from sslpipe.views.render.triton.colour import clamp, colour, emit, get, put
from sslpipe.views.render.triton.layout import (
    BOX,
    COSINE,
    COUNT,
    IMAGE,
    IS_LONG,
    LATE,
    SCALE,
    SHRINK,
    SINE,
    SOURCE,
    TURN,
    WORDS,
)

# Where a resize reads: uint8 canvases, float planes of canvases, float planes that hold the crop alone.
BYTES, CANVAS, CROP = (tl.constexpr(k) for k in (0, 1, 2))


@triton.jit
def tap(place, centre, shrink, CUBIC: tl.constexpr):
    """The weight of a pixel, rounded in the order of `reference.resize_taps`."""
    distance = tl.abs((((place - centre).to(tl.float64) + 0.5) * shrink).to(tl.float32))
    if CUBIC:
        distance = tl.minimum(distance, 2.0)
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = tl.where(distance < 1, near, far)
    else:
        weight = tl.maximum(1 - distance, 0.0)
    return weight


@triton.jit(do_not_specialize=["taps"])
def weigh(table, starts, weights, taps, SIZE: tl.constexpr, BLOCK: tl.constexpr, CUBIC: tl.constexpr):
    """The taps of the resize, in the order of the view's rows and columns: flips and turns are in them.

    All taps lie within the crop: those that reach beyond the filter are 0.

    Args:
        starts: int32 [N, 2, S], the first pixel of the crop that an output row (or column) sees.
        weights: float32 [N, 2, taps, S], of that pixel and the next ones.
        CUBIC: bicubic, else bilinear.
    """
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    line = tl.program_id(0) // blocks  # a view's rows or its columns
    axis = line % 2
    row = table + line // 2 * WORDS
    length, count = tl.load(row + BOX + 2 + axis), tl.load(row + COUNT + axis)
    scale = tl.load(row + SCALE + axis).to(tl.float32, bitcast=True)
    shrink = tl.load(row + SHRINK + axis).to(tl.float32, bitcast=True).to(tl.float64)
    flipped = (tl.load(row + TURN) >> axis) & 1

    p = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = p < SIZE
    i = tl.minimum(p, SIZE - 1)
    i = tl.where(flipped == 1, SIZE - 1 - i, i)
    centre = (scale.to(tl.float64) * (i.to(tl.float64) + 0.5)).to(tl.float32)
    reach = tl.maximum(scale, 1.0).to(tl.float64) * (2 if CUBIC else 1)
    # The first whole number in (centre - .5 - reach, centre - .5 + reach), which has at most `count` of them.
    first = tl.floor(centre.to(tl.float64) - 0.5 - reach).to(tl.int32) + 1
    first = tl.maximum(tl.minimum(first, length - count), 0)
    tl.store(starts + line * SIZE + p, first, mask=inside)

    total = tl.full([BLOCK], 0.0, tl.float32)
    for k in range(0, count):
        total += tap((first + k).to(tl.float32), centre, shrink, CUBIC)
    at = weights + line.to(tl.int64) * taps * SIZE + p
    for k in range(0, count):
        weight = tap((first + k).to(tl.float32), centre, shrink, CUBIC)
        tl.store(at + k * SIZE, tl.div_rn(weight, total), mask=inside)


@triton.jit(do_not_specialize=["side", "plane", "cut", "blocks"])
def rotate(
    source, table, crops, side, plane, cut, blocks, to_unit, to_canvas, fill,
    FORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Crops of the image rotated about the crop's centre, at its scale, as `reference._rotate`.

    Args:
        source: canvases, as FORM says.
        crops: float32 [N, 3, cut].
        cut: pixels of the largest crop.
        to_unit, to_canvas: 2 / side and side / 2.
        fill: outside the image.
    """
    view, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row = table + view * WORDS
    height, width = tl.load(row + BOX + 2), tl.load(row + BOX + 3)
    if block * BLOCK >= height * width:
        return
    place = block * BLOCK + tl.arange(0, BLOCK)
    inside = place < height * width
    i = place // width
    cosine = tl.load(row + COSINE).to(tl.float32, bitcast=True)
    sine = tl.load(row + SINE).to(tl.float32, bitcast=True)
    dy = i + 0.5 - height * 0.5
    dx = (place - i * width) + 0.5 - width * 0.5
    x = cosine * dx - sine * dy + (tl.load(row + BOX + 1) + width * 0.5)
    y = sine * dx + cosine * dy + (tl.load(row + BOX) + height * 0.5)
    # There and back, as grid_sample has it: what is lost on the way is seen on a canvas of thousands of pixels.
    x = ((x * to_unit - 1) + 1) * to_canvas - 0.5
    y = ((y * to_unit - 1) + 1) * to_canvas - 0.5
    left, top = tl.floor(x), tl.floor(y)

    if FORM == BYTES:
        at = source + tl.load(row + SOURCE).to(tl.int64) * (side * side * 3)
        stride, step, channel = side * 3, 3, 1
    else:
        at = source + view.to(tl.int64) * 3 * plane
        stride, step, channel = tl.load(row + IMAGE + 1), 1, plane
    r = tl.full([BLOCK], 0.0, tl.float32)
    g, b, share = r, r, r
    for corner in tl.static_range(4):
        column, line = left.to(tl.int32) + corner % 2, top.to(tl.int32) + corner // 2
        seen = inside & (column >= 0) & (column < tl.load(row + IMAGE + 1))
        seen = seen & (line >= 0) & (line < tl.load(row + IMAGE))
        weight = (x - left if corner % 2 else 1 - (x - left)) * (y - top if corner // 2 else 1 - (y - top))
        cr, cg, cb = get(at + line * stride + column * step, channel, seen)
        r += weight * cr
        g += weight * cg
        b += weight * cb
        share += tl.where(seen, weight, 0.0)
    if FORM == BYTES:
        r, g, b = r * (1 / 255), g * (1 / 255), b * (1 / 255)
    # The border is weighed twice by the share of it that is image.
    r, g, b = (r - fill) * share + fill, (g - fill) * share + fill, (b - fill) * share + fill
    put(crops + view.to(tl.int64) * 3 * cut + place, cut, r, g, b, inside)


@triton.jit
def origin(source, row, view, side, plane, FORM: tl.constexpr):
    """Where a view's crop begins in memory, and how far apart its rows and its channels are."""
    if FORM == BYTES:
        at = source + tl.load(row + SOURCE).to(tl.int64) * (side * side * 3)
        return at + (tl.load(row + BOX) * side + tl.load(row + BOX + 1)) * 3, side * 3, 1
    elif FORM == CANVAS:
        width = tl.load(row + IMAGE + 1)
        at = source + view.to(tl.int64) * 3 * plane
        return at + (tl.load(row + BOX) * width + tl.load(row + BOX + 1)), width, plane
    else:
        return source + view.to(tl.int64) * 3 * plane, tl.load(row + BOX + 3), plane


@triton.jit
def along(at, weights, count, STEP: tl.constexpr, channel, SIZE: tl.constexpr):
    """The weighted sums of `count` pixels of each channel from `at` on, STEP apart."""
    r = tl.full(at.shape, 0.0, tl.float32)
    g, b = r, r
    for k in range(0, count):
        weight = tl.load(weights + k * SIZE)[None, :]
        r += weight * tl.load(at).to(tl.float32)
        g += weight * tl.load(at + channel).to(tl.float32)
        b += weight * tl.load(at + 2 * channel).to(tl.float32)
        at += STEP
    return r, g, b


@triton.jit(do_not_specialize=["side", "plane", "taps", "reach", "blocks"])
def shorten(
    source, table, starts, weights, lines, side, plane, taps, reach, blocks,
    SIZE: tl.constexpr, FORM: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The first half of a resize with many taps: columns of the crop become S pixels high.

    A line of a crop is taken as it lies in memory, so that neighbours are read together: all three channels of
    BYTES pixel by pixel, else one channel after another.

    Args:
        source: canvases, as FORM says.
        starts, weights: from `weigh`.
        lines: float32 [L, S, 3 · reach], for the rows of the table that are in its list.
        reach: width of the widest crop.
        blocks: programs beside each other.
        HEIGHT, WIDTH: of a program's block.
    """
    down: tl.constexpr = (SIZE + HEIGHT - 1) // HEIGHT
    program = tl.program_id(0)
    place = program // (down * blocks)
    view = tl.load(table + place * WORDS + IS_LONG)
    row = table + view * WORDS
    width = tl.load(row + BOX + 3)
    if program % blocks * WIDTH >= 3 * width:
        return
    p = program // blocks % down * HEIGHT + tl.arange(0, HEIGHT)
    q = program % blocks * WIDTH + tl.arange(0, WIDTH)
    inside = (p < SIZE)[:, None] & (q < 3 * width)[None, :]
    at, stride, channel = origin(source, row, view, side, plane, FORM)
    if FORM == BYTES:
        at += q[None, :]
    else:
        at += (q // width * channel + q % width)[None, :]
    axis = view * 2
    first = tl.load(starts + axis * SIZE + p, mask=p < SIZE, other=0)
    weights += axis.to(tl.int64) * taps * SIZE + p
    total = tl.full([HEIGHT, WIDTH], 0.0, tl.float32)
    for k in range(0, tl.load(row + COUNT)):
        weight = tl.load(weights + k * SIZE, mask=p < SIZE, other=0)[:, None]
        total += weight * tl.load(at + ((first + k) * stride)[:, None], mask=inside, other=0).to(tl.float32)
    lines += place.to(tl.int64) * (3 * SIZE) * reach
    tl.store(lines + (p * (3 * reach))[:, None] + q[None, :], total, mask=inside)


# Unaware of their alignment, stores of neighbours by one thread are not thought of, and the whole program keeps to
# a layout of neighbouring threads on neighbouring pixels, which the many more reads of bytes want.
@triton.jit(
    do_not_specialize=["side", "plane", "taps", "reach"], do_not_specialize_on_alignment=["out", "scratch"]
)
def resize(
    source, table, starts, weights, out, out_stride, scratch, sums, side, plane, taps, reach, mean, inverse,
    SIZE: tl.constexpr, TILE: tl.constexpr, LIST: tl.constexpr, FORM: tl.constexpr, TURNS: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """Crop, resize, flip and turn, then the operations after the crop up to contrast or blur.

    Args:
        source: canvases as FORM says, or the lines that `shorten` made of them.
        starts, weights: from `weigh`.
        reach: width of the widest crop, for `shorten`.
        LIST: IS_SHORT or IS_LONG.
        TURNS: some rows have quarter turns.
    """
    side_tiles: tl.constexpr = (SIZE + TILE - 1) // TILE
    parts: tl.constexpr = side_tiles * side_tiles
    listed, tile = tl.program_id(0) // parts, tl.program_id(0) % parts
    view = tl.load(table + listed * WORDS + LIST)
    row = table + view * WORDS
    p = tile // side_tiles * TILE + tl.arange(0, TILE)
    q = tile % side_tiles * TILE + tl.arange(0, TILE)
    inside = (p < SIZE)[:, None] & (q < SIZE)[None, :]
    # Beyond the view its last row and column are computed again, which needs no masks.
    near_p, near_q = tl.minimum(p, SIZE - 1), tl.minimum(q, SIZE - 1)
    step: tl.constexpr = 3 if FORM == BYTES else 1
    axis = view * 2
    weights += axis.to(tl.int64) * taps * SIZE
    columns = tl.load(row + COUNT + 1)
    first = (tl.load(starts + (axis + 1) * SIZE + near_q) * step)[None, :]
    across = weights + taps * SIZE + near_q

    if LIST == IS_LONG:
        at = source + listed.to(tl.int64) * (3 * SIZE) * reach + (near_p * (3 * reach))[:, None] + first
        channel = 1 if FORM == BYTES else tl.load(row + BOX + 3)
        r, g, b = along(at, across, columns, step, channel, SIZE)
    else:
        at, stride, channel = origin(source, row, view, side, plane, FORM)
        top = tl.load(starts + axis * SIZE + near_p)
        r = tl.full([TILE, TILE], 0.0, tl.float32)
        g, b = r, r
        for k in range(0, tl.load(row + COUNT)):
            weight = tl.load(weights + k * SIZE + near_p)[:, None]
            lr, lg, lb = along(
                at + ((top + k) * stride)[:, None] + first, across, columns, step, channel, SIZE
            )
            r += weight * lr
            g += weight * lg
            b += weight * lb
    if FORM == BYTES:
        r, g, b = r * (1 / 255), g * (1 / 255), b * (1 / 255)

    code = tl.load(row + LATE)
    r, g, b = colour(clamp(r), clamp(g), clamp(b), code, row, inside, SIZE * SIZE, parts == 1)
    # Of a quarter turn rows and columns are exchanged on the way out, where there are fewer of them to fetch than on
    # the way in.
    turned = (tl.load(row + TURN) >> 2) & 1 if TURNS else 0
    down = SIZE - turned * (SIZE - 1)
    place = p[:, None] * down + q[None, :] * (SIZE + 1 - down)
    emit(
        r, g, b, code, place, inside, view, tile, out, out_stride, scratch, sums, mean, inverse, SIZE, parts, LAST
    )  # fmt: skip
