"""The packed table that the kernels read: what each 4-byte word of a view's row holds.

Several kernels have these arguments in common:

    table: N rows.
    side: of the canvases.
    plane: pixels of a plane: of the largest image, or of the largest crop.
    taps: the most that a view has.
    blocks: programs a view.
    out, out_stride: [N, 3, S, S], views out_stride elements apart.
    scratch: float32 [N, 3, S, S], views that wait for their mean or for the blur.
    sums: float32 [N, blocks], the luma of each block of a view.
    mean, inverse: of the normalisation, and 1 / std.
    SIZE: S.
    TILE: side of a program's block of the view.
    BLOCK: pixels, or output pixels of a line, that a program takes in a row.
    FORM: what the source is: BYTES, CANVAS or CROP.
    LAST: whether the channels are the last axis of `out` in memory.
"""

import triton.language as tl

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
