"""Rotated rows straight from the bytes of a canvas, on vector registers, written for LLVM."""
# mypy: allow-untyped-defs
# Arguments are numba's types where a function is typed and LLVM's values where it is built, of whatever class.

from llvmlite import ir
from numba.core import cgutils, types

from sslpipe.views.render.cpu.vectors import LANES, everywhere, intrinsic, pointer_to, spread, store


def _eight_bytes_at(builder, base, offsets):
    """The eight bytes at base + each of LANES offsets (not negative), gathered: each's lower four, and upper four.

    One gather is for the even lanes and one for the odd: so halves of registers need only be shifted, which two
    units of a core can do, where moving them across a register is for one.
    """
    long, word = ir.VectorType(ir.IntType(64), LANES // 2), ir.VectorType(ir.IntType(32), LANES)
    pointers = ir.VectorType(ir.IntType(64).as_pointer(), LANES // 2)
    mask = ir.VectorType(ir.IntType(1), LANES // 2)
    kind = ir.FunctionType(long, [pointers, mask, long])
    name = f"llvm.masked.gather.v{LANES // 2}i64.v{LANES // 2}p0"
    gather = cgutils.get_or_insert_function(builder.module, kind, name)

    def constant(kind, value):
        return ir.Constant(kind, [value] * (LANES // 2))

    half, lower = constant(long, 32), constant(long, 2**32 - 1)
    pairs = builder.bitcast(offsets, long)
    start = everywhere(builder, base, long)

    def gathered(place):
        place = builder.inttoptr(builder.add(place, start), pointers)
        return builder.call(gather, [place, constant(mask, 1), constant(long, 0)])

    even, odd = gathered(builder.and_(pairs, lower)), gathered(builder.lshr(pairs, half))
    low = builder.or_(builder.and_(even, lower), builder.shl(odd, half))
    high = builder.or_(builder.lshr(even, half), builder.and_(odd, constant(long, 2**64 - 2**32)))
    return builder.bitcast(low, word), builder.bitcast(high, word)


class _Floats:
    """Arithmetic on LANES float32 at a time; only multiply-add may be fused."""

    kind = ir.VectorType(ir.FloatType(), LANES)
    whole = ir.VectorType(ir.IntType(32), LANES)

    def __init__(self, builder):
        self.builder = builder

    def constant(self, value):
        return ir.Constant(self.kind, [value] * LANES)

    def times(self, a, b):
        return self.builder.fmul(a, b, flags=("contract",))

    def plus(self, a, b):
        return self.builder.fadd(a, b, flags=("contract",))

    def minus(self, a, b):
        return self.builder.fsub(a, b)

    def floor(self, a):
        kind = ir.FunctionType(self.kind, [self.kind])
        floor = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.floor.v{LANES}f32")
        return self.builder.call(floor, [a])

    def where(self, a, b, then, other):
        """`then` where a = b."""
        return self.builder.select(self.builder.fcmp_ordered("==", a, b), then, other)

    def clamp(self, a, low, high):
        a = self.builder.select(self.builder.fcmp_ordered("<", a, low), low, a)
        return self.builder.select(self.builder.fcmp_ordered(">", a, high), high, a)

    def byte(self, words, place):
        """Byte `place` of 32-bit words."""
        shifted = self.builder.lshr(words, ir.Constant(self.whole, [8 * place] * LANES)) if place else words
        masked = self.builder.and_(shifted, ir.Constant(self.whole, [255] * LANES))
        return self.builder.sitofp(masked, self.kind)


def _pair(f, place, last):
    """The first of two neighbours among pixels 0 … `last` about a place, and what each of them weighs there.

    At the edges the pair is the outermost one; pixels that are not there weigh nothing.
    """
    low = f.floor(place)
    part = f.minus(place, low)
    zero, one = f.constant(0.0), f.constant(1.0)
    rest = f.minus(one, part)
    first = f.clamp(low, zero, f.minus(last, one))
    beside = f.minus(low, first)
    left = f.where(beside, zero, rest, f.where(beside, f.constant(-1.0), part, zero))
    right = f.where(beside, zero, part, f.where(beside, one, rest, zero))
    return first, left, right


def _turner(edge):
    @intrinsic
    def turn(typing, out, to, plane, data, pitch, x, y, cos, sin, j, last_x, last_y, fill):
        """LANES outputs of a rotated row, from j on: out[to + c·plane + lane], bilinear between the four pixels about
        (x + cos·(j + lane), y + sin·(j + lane)) of bytes, rows `pitch` apart. At an edge some of the four may not be
        there: an output is weighed once more by the share of it that is image, the rest is `fill`, as in torchvision.

        Two gathers bring all that is needed: eight bytes hold two neighbours. The lower pair is read from two bytes
        before it on, so that nothing beyond the image's last byte is touched.
        """  # fmt: skip
        s, n = types.float32, types.intp
        signature = types.void(out, n, n, data, n, s, s, s, s, n, s, s, s)

        def codegen(context, builder, signature, args):
            a_out, to, plane, a_data, pitch, x, y, cos, sin, j, last_x, last_y, fill = args
            kinds, f = signature.args, _Floats(builder)
            lanes = ir.Constant(f.kind, [float(lane) for lane in range(LANES)])
            place = f.plus(spread(builder, builder.sitofp(j, ir.FloatType())), lanes)
            column = f.plus(f.times(spread(builder, cos), place), spread(builder, x))
            line = f.plus(f.times(spread(builder, sin), place), spread(builder, y))
            if edge:
                column, left, right = _pair(f, column, spread(builder, last_x))
                line, up, down = _pair(f, line, spread(builder, last_y))
                inside = f.times(f.plus(left, right), f.plus(up, down))
                column, line = builder.fptosi(column, f.whole), builder.fptosi(line, f.whole)
            else:
                place_x, place_y = column, line
                column, line = builder.fptosi(column, f.whole), builder.fptosi(line, f.whole)
                right = f.minus(place_x, builder.sitofp(column, f.kind))
                down = f.minus(place_y, builder.sitofp(line, f.kind))
                left, up = f.minus(f.constant(1.0), right), f.minus(f.constant(1.0), down)
            up, down = f.times(up, f.constant(1 / 255)), f.times(down, f.constant(1 / 255))
            weights = [f.times(left, up), f.times(right, up), f.times(left, down), f.times(right, down)]

            # 32 bits: a canvas of 2 GiB would be 26 754 pixels a side.
            rows = everywhere(builder, builder.trunc(pitch, ir.IntType(32)), f.whole)
            offsets = builder.mul(line, rows)
            across = builder.mul(column, ir.Constant(f.whole, [3] * LANES))
            offsets = builder.add(offsets, across)
            base = builder.ptrtoint(pointer_to(context, builder, kinds[3], a_data, to.type(0)), pitch.type)
            low, high = _eight_bytes_at(builder, base, offsets)
            upper = [f.byte(low, 0), f.byte(low, 1), f.byte(low, 2)]
            upper_right = [f.byte(low, 3), f.byte(high, 0), f.byte(high, 1)]
            base = builder.add(base, builder.sub(pitch, pitch.type(2)))
            low, high = _eight_bytes_at(builder, base, offsets)
            lower = [f.byte(low, 2), f.byte(low, 3), f.byte(high, 0)]
            lower_right = [f.byte(high, 1), f.byte(high, 2), f.byte(high, 3)]

            for c in range(3):
                value = f.times(upper[c], weights[0])
                for pixel, weight in zip((upper_right, lower, lower_right), weights[1:], strict=True):
                    value = f.plus(value, f.times(pixel[c], weight))
                if edge:
                    beyond = spread(builder, fill)
                    value = f.plus(f.times(f.minus(value, beyond), inside), beyond)
                target = builder.add(to, builder.mul(plane, plane.type(c)))
                store(builder, value, pointer_to(context, builder, kinds[0], a_out, target))
            return context.get_dummy_value()

        return signature, codegen

    return turn


turn, turn_edge = _turner(edge=False), _turner(edge=True)
