"""Loops on vector registers that numba does not find by itself, written for LLVM."""

from __future__ import annotations

from typing import Any

import numba.extending
from llvmlite import ir
from numba.core import cgutils, types

LANES = 16

intrinsic: Any = numba.extending.intrinsic


@intrinsic
def wide(typing: Any) -> Any:
    """Let the loops of the function that calls this use the widest registers there are.

    LLVM keeps to half of AVX-512's, lest a processor clock down; here they gain a quarter all the same.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # An attribute llvmlite has no name for: its set checks names, the plain set does not.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


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
def weigh(
    typing: Any,
    out: Any,
    to: Any,
    step: Any,
    weights: Any,
    w: Any,
    row: Any,
    r: Any,
    plane: Any,
    pixel: Any,
    n: Any,
) -> Any:
    """LANES outputs of three channels from n inputs:
    out[to + c·step + lane] = Σ_j weights[w + j·LANES + lane] · row[r + c·plane + j·pixel].

    Each input is spread over the lanes, so that nothing is gathered and the sums stay in registers.
    """  # fmt: skip
    signature = types.void(
        out, types.intp, types.intp, weights, types.intp, row, types.intp, types.intp, types.intp, types.intp
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a_out, to, step, a_weights, w, a_row, r, plane, pixel, n = args
        kinds = signature.args
        zero = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(3)]
        for total in totals:
            builder.store(zero, total)
        weight = _pointer(context, builder, kinds[3], a_weights, w)
        sources = [
            _pointer(context, builder, kinds[5], a_row, builder.add(r, builder.mul(plane, plane.type(c))))
            for c in range(3)
        ]
        with cgutils.for_range(builder, n) as loop:
            lanes = _load(builder, builder.gep(weight, [builder.mul(loop.index, loop.index.type(LANES))]))
            for total, source in zip(totals, sources, strict=True):
                value = builder.load(builder.gep(source, [builder.mul(loop.index, pixel)]))
                _add_product(builder, total, lanes, _spread(builder, value))
        for c, total in enumerate(totals):
            target = _pointer(
                context, builder, kinds[0], a_out, builder.add(to, builder.mul(step, step.type(c)))
            )
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


smooth, smooth_4 = _smoother(LANES), _smoother(4 * LANES)  # the wider shares each weight's load


def _blender(lanes: int) -> Any:
    @intrinsic
    def blend(
        typing: Any,
        out: Any,
        to: Any,
        ring: Any,
        at: Any,
        slot: Any,
        slots: Any,
        step: Any,
        weights: Any,
        n: Any,
    ) -> Any:
        """out[to + lane] = Σ_t weights[t] · ring[at + ((slot + t) mod slots) · step + lane], within [0, 1]."""
        signature = types.void(
            out, types.intp, ring, types.intp, types.intp, types.intp, types.intp, weights, types.intp
        )

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_out, to, a_ring, at, slot, slots, step, a_weights, n = args
            kinds = signature.args
            base = _pointer(context, builder, kinds[2], a_ring, at)
            weight = _pointer(context, builder, kinds[7], a_weights, ir.Constant(at.type, 0))
            zero = ir.Constant(ir.VectorType(ir.FloatType(), lanes), [0.0] * lanes)
            total = cgutils.alloca_once_value(builder, zero)
            place = cgutils.alloca_once_value(builder, slot)
            builder.store(zero, total)
            builder.store(slot, place)
            with cgutils.for_range(builder, n) as loop:
                here = builder.load(place)
                row = _load(builder, builder.gep(base, [builder.mul(here, step)]), lanes)
                value = builder.load(builder.gep(weight, [loop.index]))
                _add_product(builder, total, row, _spread(builder, value, lanes))
                after = builder.add(here, here.type(1))
                builder.store(
                    builder.select(builder.icmp_signed("<", after, slots), after, here.type(0)), place
                )
            result = builder.load(total)
            one = ir.Constant(zero.type, [1.0] * lanes)
            result = builder.select(builder.fcmp_ordered("<", result, zero), zero, result)
            result = builder.select(builder.fcmp_ordered(">", result, one), one, result)
            _store(builder, result, _pointer(context, builder, kinds[0], a_out, to))
            return context.get_dummy_value()

        return signature, codegen

    return blend


blend, blend_4 = _blender(LANES), _blender(4 * LANES)


def _everywhere(builder: Any, value: Any, kind: Any) -> Any:
    """A number in all lanes of a vector type."""
    undefined, place = ir.Constant(kind, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(undefined, value, ir.Constant(place, 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(place, kind.count), [0] * kind.count)
    )


def _eight_bytes_at(builder: Any, base: Any, offsets: Any) -> tuple[Any, Any]:
    """The eight bytes at base + each of LANES offsets (not negative), gathered: each's lower four, and upper four.

    One gather is for the even lanes and one for the odd: so halves of registers need only be shifted, which two
    units of a core can do, where moving them across a register is for one.
    """
    long, word = ir.VectorType(ir.IntType(64), LANES // 2), ir.VectorType(ir.IntType(32), LANES)
    pointers = ir.VectorType(ir.IntType(64).as_pointer(), LANES // 2)
    mask = ir.VectorType(ir.IntType(1), LANES // 2)
    gather = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(long, [pointers, mask, long]),
        f"llvm.masked.gather.v{LANES // 2}i64.v{LANES // 2}p0",
    )

    def constant(kind: Any, value: int) -> Any:
        return ir.Constant(kind, [value] * (LANES // 2))

    half, lower = constant(long, 32), constant(long, 2**32 - 1)
    pairs = builder.bitcast(offsets, long)
    start = _everywhere(builder, base, long)
    even, odd = (
        builder.call(
            gather,
            [
                builder.inttoptr(builder.add(place, start), pointers),
                constant(mask, 1),
                constant(long, 0),
            ],
        )
        for place in (builder.and_(pairs, lower), builder.lshr(pairs, half))
    )
    low = builder.or_(builder.and_(even, lower), builder.shl(odd, half))
    high = builder.or_(builder.lshr(even, half), builder.and_(odd, constant(long, 2**64 - 2**32)))
    return builder.bitcast(low, word), builder.bitcast(high, word)


class _Floats:
    """Arithmetic on LANES float32 at a time; only multiply-add may be fused."""

    kind = ir.VectorType(ir.FloatType(), LANES)
    whole = ir.VectorType(ir.IntType(32), LANES)

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def constant(self, value: float) -> Any:
        return ir.Constant(self.kind, [value] * LANES)

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=("contract",))

    def plus(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=("contract",))

    def minus(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b)

    def floor(self, a: Any) -> Any:
        kind = ir.FunctionType(self.kind, [self.kind])
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.floor.v{LANES}f32"), [a]
        )

    def where(self, a: Any, b: Any, then: Any, other: Any) -> Any:
        """`then` where a = b."""
        return self.builder.select(self.builder.fcmp_ordered("==", a, b), then, other)

    def clamp(self, a: Any, low: Any, high: Any) -> Any:
        a = self.builder.select(self.builder.fcmp_ordered("<", a, low), low, a)
        return self.builder.select(self.builder.fcmp_ordered(">", a, high), high, a)

    def byte(self, words: Any, place: int) -> Any:
        """Byte `place` of 32-bit words."""
        shifted = self.builder.lshr(words, ir.Constant(self.whole, [8 * place] * LANES)) if place else words
        masked = self.builder.and_(shifted, ir.Constant(self.whole, [255] * LANES))
        return self.builder.sitofp(masked, self.kind)


def _pair(f: _Floats, place: Any, last: Any) -> tuple[Any, Any, Any]:
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


def _turner(edge: bool) -> Any:
    @intrinsic
    def turn(
        typing: Any,
        out: Any,
        to: Any,
        plane: Any,
        data: Any,
        pitch: Any,
        x: Any,
        y: Any,
        cos: Any,
        sin: Any,
        j: Any,
        last_x: Any,
        last_y: Any,
        fill: Any,
    ) -> Any:
        """LANES outputs of a rotated row, from j on: out[to + c·plane + lane], bilinear between the four pixels about
        (x + cos·(j + lane), y + sin·(j + lane)) of bytes, rows `pitch` apart. At an edge some of the four may not be
        there: an output is weighed once more by the share of it that is image, the rest is `fill`, as in torchvision.

        Two gathers bring all that is needed: eight bytes hold two neighbours. The lower pair is read from two bytes
        before it on, so that nothing beyond the image's last byte is touched.
        """  # fmt: skip
        s, n = types.float32, types.intp
        signature = types.void(out, n, n, data, n, s, s, s, s, n, s, s, s)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_out, to, plane, a_data, pitch, x, y, cos, sin, j, last_x, last_y, fill = args
            kinds, f = signature.args, _Floats(builder)
            lanes = ir.Constant(f.kind, [float(lane) for lane in range(LANES)])
            place = f.plus(_spread(builder, builder.sitofp(j, ir.FloatType())), lanes)
            column = f.plus(f.times(_spread(builder, cos), place), _spread(builder, x))
            line = f.plus(f.times(_spread(builder, sin), place), _spread(builder, y))
            if edge:
                column, left, right = _pair(f, column, _spread(builder, last_x))
                line, up, down = _pair(f, line, _spread(builder, last_y))
                share = f.times(f.plus(left, right), f.plus(up, down))
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
            rows = _everywhere(builder, builder.trunc(pitch, ir.IntType(32)), f.whole)
            offsets = builder.mul(line, rows)
            across = builder.mul(column, ir.Constant(f.whole, [3] * LANES))
            offsets = builder.add(offsets, across)
            base = builder.ptrtoint(_pointer(context, builder, kinds[3], a_data, to.type(0)), pitch.type)
            low, high = _eight_bytes_at(builder, base, offsets)
            upper = [f.byte(low, 0), f.byte(low, 1), f.byte(low, 2)]
            upper_right = [f.byte(low, 3), f.byte(high, 0), f.byte(high, 1)]
            low, high = _eight_bytes_at(
                builder, builder.add(base, builder.sub(pitch, pitch.type(2))), offsets
            )
            lower = [f.byte(low, 2), f.byte(low, 3), f.byte(high, 0)]
            lower_right = [f.byte(high, 1), f.byte(high, 2), f.byte(high, 3)]

            for c in range(3):
                value = f.times(upper[c], weights[0])
                for pixel, weight in zip((upper_right, lower, lower_right), weights[1:], strict=True):
                    value = f.plus(value, f.times(pixel[c], weight))
                if edge:
                    beyond = _spread(builder, fill)
                    value = f.plus(f.times(f.minus(value, beyond), share), beyond)
                target = builder.add(to, builder.mul(plane, plane.type(c)))
                _store(builder, value, _pointer(context, builder, kinds[0], a_out, target))
            return context.get_dummy_value()

        return signature, codegen

    return turn


turn, turn_edge = _turner(edge=False), _turner(edge=True)


@intrinsic
def expect(typing: Any, data: Any, at: Any) -> Any:
    """Have the cache line of data[at] brought near, without waiting for it."""
    signature = types.void(data, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def claim(typing: Any, counter: Any, amount: Any) -> Any:
    """Add to counter[0] and return what it was, whatever other threads do meanwhile."""
    signature = types.intp(counter, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", pointer, args[1], "monotonic")

    return signature, codegen
