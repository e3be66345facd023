"""The kernels of sslpipe.views.render.triton: what one program computes; that module says when each is launched.

Every branch on a row of the table is a branch on a scalar, the same for a whole program. Planes of scratch hold
float32 in [0, 1], three a view, one after another; a plane of a canvas or a crop has rows of that view's own width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads the annotations of a kernel's arguments as they stand, so they stay evaluated.

import triton
import triton.language as tl

# ------------------------------------------------------------------------------ the packed table: a row a view

WORDS = tl.constexpr(32)  # of 4 bytes, so that a row is one cache line
SOURCE = tl.constexpr(0)  # the canvas
BOX = tl.constexpr(1)  # top, left, height, width
IMAGE = tl.constexpr(5)  # height, width
TURN = tl.constexpr(7)  # bit 0: rows from the last to the first, 1: columns, 2: rows and columns exchanged
FACTORS = tl.constexpr(8)  # float: brightness, contrast, saturation, hue
SHARPNESS = tl.constexpr(12)  # float: 1 / the blur's standard deviation
RADIUS = tl.constexpr(13)  # taps of the blur on either side
COSINE, SINE = tl.constexpr(14), tl.constexpr(15)  # float: of the angle
SCALE = tl.constexpr(16)  # float: input pixels per output pixel, of rows and of columns
SHRINK = tl.constexpr(18)  # float: 1 / max(scale, 1), of rows and of columns
COUNT = tl.constexpr(20)  # taps of the resize, of rows and of columns
EARLY = tl.constexpr(22)  # code: before the crop
EARLY_CONTRAST = tl.constexpr(23)  # code: after contrast, before the crop
LATE = tl.constexpr(24)  # code: after the crop
LATE_CONTRAST = tl.constexpr(25)  # code: after contrast
LATE_BLUR = tl.constexpr(26)  # code: after the blur
# Lists of rows: the k-th row's word is the number of the k-th row that …
HAS_EARLY_CONTRAST = tl.constexpr(27)
IS_SHORT = tl.constexpr(28)  # … is resized along both axes at once
IS_LONG = tl.constexpr(29)  # … is resized along one axis after the other
HAS_CONTRAST = tl.constexpr(30)
HAS_BLUR = tl.constexpr(31)

# A code is a row of operations, four bits each from the lowest, and in its highest bits where the pixels go.
BRIGHTNESS, CONTRAST, SATURATION, HUE = (tl.constexpr(k) for k in (1, 2, 3, 4))
GREY, SOLARIZE, BLUR = (tl.constexpr(k) for k in (5, 6, 7))  # a blur ends a code
OPERATIONS = tl.constexpr((1 << 28) - 1)
GOAL = tl.constexpr(28)
TO_OUT, TO_CONTRAST, TO_BLUR = (tl.constexpr(k) for k in (0, 1, 2))

# Where a resize reads: uint8 canvases, float planes of canvases, float planes that hold the crop alone.
BYTES, CANVAS, CROP = (tl.constexpr(k) for k in (0, 1, 2))


# -------------------------------------------------------------------------------------------------- colour


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
    """The operations of a code.

    Args:
        r, g, b: a block of pixels.
        code: the operations.
        row: pointer to the view's row.
        inside: which of the block are pixels of the view.
        PIXELS: of the view.
        WHOLE: the block is the whole view, so contrast may be among the operations.
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
    """Write a block of pixels where its code says.

    Args:
        r, g, b: the pixels.
        code: of which the operations are done.
        place: of each pixel in the view, row by row.
        inside: which of them are pixels of the view.
        view: number of the view.
        tile: number of the block among the view's blocks.
        out: [N, 3, S, S], views out_stride apart.
        out_stride: in elements.
        scratch: float32 [N, 3, S, S].
        sums: float32 [N, PARTS], the luma of each block.
        mean: of the normalisation.
        inverse: 1 / std of the normalisation.
        SIZE: S.
        PARTS: blocks a view.
        LAST: whether the channels are the last axis in memory.
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


# ---------------------------------------------------------------------------------------- before the resize


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
        table: N rows.
        starts: int32 [N, 2, S], the first pixel of the crop that an output row (or column) sees.
        weights: float32 [N, 2, taps, S], of that pixel and the next ones.
        taps: the most that a view has.
        SIZE: S.
        BLOCK: output pixels a program.
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


@triton.jit(do_not_specialize=["side", "plane", "blocks"])
def begin(pixels, table, canvas, sums, side, plane, blocks, BLOCK: tl.constexpr):
    """Whole images as float planes, with the operations that come before the crop, up to contrast.

    Args:
        pixels: uint8 [M, side, side, 3].
        table: N rows.
        canvas: float32 [N, 3, plane].
        sums: float32 [N, blocks], the luma of each block.
        side: of the canvases.
        plane: pixels of the largest image.
        blocks: programs a view.
        BLOCK: pixels a program.
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


@triton.jit(do_not_specialize=["side", "plane", "cut", "blocks"])
def rotate(
    source, table, crops, side, plane, cut, blocks, to_unit, to_canvas, fill,
    FORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Crops of the image rotated about the crop's centre, at its scale, as `reference._rotate`.

    Args:
        source: canvases, as FORM says.
        table: N rows.
        crops: float32 [N, 3, cut].
        side: of the canvases.
        plane: pixels of the largest image.
        cut: pixels of the largest crop.
        blocks: programs a view.
        to_unit: 2 / side.
        to_canvas: side / 2.
        fill: outside the image.
        FORM: BYTES or CANVAS.
        BLOCK: pixels a program.
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


# ---------------------------------------------------------------------------------------------- the resize


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
        table: N rows.
        starts, weights: from `weigh`.
        lines: float32 [L, S, 3 · reach], for the rows of the table that are in its list.
        side: of the canvases.
        plane: pixels a plane, where FORM is not BYTES.
        taps: the most that a view has.
        reach: width of the widest crop.
        blocks: programs beside each other.
        SIZE: S.
        FORM: of the source.
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
        source: canvases as FORM says, or the lines of `shorten`.
        table: N rows.
        starts, weights: from `weigh`.
        out, out_stride, scratch, sums, mean, inverse, LAST: as in `emit`.
        side: of the canvases.
        plane: pixels a plane, where FORM is not BYTES.
        taps: the most that a view has.
        reach: width of the widest crop, for `shorten`.
        SIZE: S.
        TILE: a program's block is TILE x TILE.
        LIST: IS_SHORT or IS_LONG.
        FORM: of the source (and of the source of `shorten`).
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
    turned = (tl.load(row + TURN) >> 2) & 1 if TURNS else 0
    if turned == 1:
        # Rows and columns are exchanged on the way out, where there are fewer of them to fetch than on the way in.
        emit(
            r, g, b, code, q[None, :] * SIZE + p[:, None], inside, view, tile, out, out_stride, scratch, sums,
            mean, inverse, SIZE, parts, LAST,
        )  # fmt: skip
    else:
        emit(
            r, g, b, code, p[:, None] * SIZE + q[None, :], inside, view, tile, out, out_stride, scratch, sums,
            mean, inverse, SIZE, parts, LAST,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------- after the resize


@triton.jit
def mean_luma(sums, parts, count, BLOCK: tl.constexpr):
    """The mean of `count` pixels from the sums of their `parts` blocks, always added in the same order."""
    total = tl.full([BLOCK], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK)
    for start in range(0, parts, BLOCK):
        total += tl.load(sums + start + lane, mask=start + lane < parts, other=0)
    return tl.sum(total) / count


@triton.jit(do_not_specialize=["plane", "blocks"])
def early_contrast(table, canvas, sums, plane, blocks, BLOCK: tl.constexpr):
    """Contrast on whole images, and what comes between it and the crop.

    Args:
        table: N rows.
        canvas: float32 [N, 3, plane], changed in place.
        sums: float32 [N, blocks], from `begin`.
        plane: pixels of the largest image.
        blocks: programs a view.
        BLOCK: pixels a program.
    """
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


@triton.jit
def contrast(
    table, out, out_stride, scratch, sums, mean, inverse,
    SIZE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Contrast and the operations after it.

    Args:
        table: N rows.
        out, out_stride, scratch, sums, mean, inverse, SIZE, LAST: as in `emit`.
        TILE: side of the blocks that `sums` are of.
        BLOCK: pixels a program.
    """
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
        table: N rows.
        half: float32 [B, 3, S, S], views blurred along one axis, for the rows of the table that are in its list.
        out, out_stride, scratch, sums, mean, inverse, SIZE, LAST: as in `emit`.
        TILE: a program's block is TILE x TILE.
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
    lane = tl.arange(0, REACH)
    weights = tl.exp(-0.5 * (lane * sharpness) * (lane * sharpness))
    share = 1 / (2 * tl.sum(tl.where(lane <= radius, weights, 0.0)) - 1)
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
