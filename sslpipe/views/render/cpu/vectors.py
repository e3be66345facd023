"""Loops on vector registers that numba does not find by itself, written for LLVM."""
# mypy: allow-untyped-defs
# Arguments are numba's types where a function is typed and LLVM's values where it is built, of whatever class.

from typing import Any

import numba.extending
from llvmlite import ir
from numba.core import cgutils, types

LANES = 16

intrinsic: Any = numba.extending.intrinsic


@intrinsic
def wide(typing):
    """Let the loops of the function that calls this use the widest registers there are.

    LLVM keeps to half of AVX-512's, lest a processor clock down; here they gain a quarter all the same.
    """

    def codegen(context, builder, signature, args):
        # An attribute llvmlite has no name for: its set checks names, the plain set does not.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


def pointer_to(context, builder, kind, array, offset):
    """Where an element of an array lies."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [offset])


def _load(builder, pointer, lanes=LANES):
    vector = ir.VectorType(ir.FloatType(), lanes)
    load = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    load.align = 4
    return load


def everywhere(builder, value, kind):
    """A number in all lanes of a vector type."""
    undefined, index = ir.Constant(kind, ir.Undefined), ir.IntType(32)
    first = builder.insert_element(undefined, value, ir.Constant(index, 0))
    places = ir.Constant(ir.VectorType(index, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, places)


def spread(builder, value, lanes=LANES):
    """A float32 in all lanes."""
    return everywhere(builder, value, ir.VectorType(ir.FloatType(), lanes))


def _add_product(builder, total, a, b):
    """total += a · b, in a register."""
    product = builder.fmul(a, b, flags=("contract",))
    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)


def store(builder, value, pointer):
    """Write a vector of float32, wherever it lies."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 4


@intrinsic
def weigh(typing, out, to, step, weights, w, row, r, plane, pixel, n):
    """LANES outputs of three channels from n inputs:
    out[to + c·step + lane] = Σ_j weights[w + j·LANES + lane] · row[r + c·plane + j·pixel].

    Each input is spread over the lanes, so that nothing is gathered and the sums stay in registers.
    """  # fmt: skip
    k = types.intp
    signature = types.void(out, k, k, weights, k, row, k, k, k, k)

    def codegen(context, builder, signature, args):
        a_out, to, step, a_weights, w, a_row, r, plane, pixel, n = args
        kinds = signature.args
        zero = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(3)]
        weight = pointer_to(context, builder, kinds[3], a_weights, w)
        starts = [builder.add(r, builder.mul(plane, plane.type(c))) for c in range(3)]
        sources = [pointer_to(context, builder, kinds[5], a_row, start) for start in starts]
        with cgutils.for_range(builder, n) as loop:
            lanes = _load(builder, builder.gep(weight, [builder.mul(loop.index, loop.index.type(LANES))]))
            for total, source in zip(totals, sources, strict=True):
                value = builder.load(builder.gep(source, [builder.mul(loop.index, pixel)]))
                _add_product(builder, total, lanes, spread(builder, value))
        for c, total in enumerate(totals):
            target = builder.add(to, builder.mul(step, step.type(c)))
            store(builder, builder.load(total), pointer_to(context, builder, kinds[0], a_out, target))
        return context.get_dummy_value()

    return signature, codegen


def _smoother(lanes):
    @intrinsic
    def smooth(typing, out, to, source, at, step, weights, n):
        """Outputs of a symmetric filter: weights[0] · x(0) + Σ_{d = 1…n} weights[d] · (x(-d) + x(d)), where
        x(d) = source[at + d·step + lane].
        """
        k = types.intp
        signature = types.void(out, k, source, k, k, weights, k)

        def codegen(context, builder, signature, args):
            a_out, to, a_source, at, step, a_weights, n = args
            kinds = signature.args
            centre = pointer_to(context, builder, kinds[2], a_source, at)
            weight = pointer_to(context, builder, kinds[5], a_weights, ir.Constant(at.type, 0))
            first = builder.fmul(_load(builder, centre, lanes), spread(builder, builder.load(weight), lanes))
            total = cgutils.alloca_once_value(builder, first)
            with cgutils.for_range(builder, n) as loop:
                d = builder.add(loop.index, loop.index.type(1))
                shift = builder.mul(d, step)
                before = _load(builder, builder.gep(centre, [builder.neg(shift)]), lanes)
                after = _load(builder, builder.gep(centre, [shift]), lanes)
                value = builder.load(builder.gep(weight, [d]))
                _add_product(builder, total, builder.fadd(before, after), spread(builder, value, lanes))
            store(builder, builder.load(total), pointer_to(context, builder, kinds[0], a_out, to))
            return context.get_dummy_value()

        return signature, codegen

    return smooth


smooth, smooth_4 = _smoother(LANES), _smoother(4 * LANES)  # the wider shares each weight's load


def _blender(lanes):
    @intrinsic
    def blend(typing, out, to, ring, at, slot, slots, step, weights, n):
        """out[to + lane] = Σ_t weights[t] · ring[at + ((slot + t) mod slots) · step + lane], within [0, 1]."""
        k = types.intp
        signature = types.void(out, k, ring, k, k, k, k, weights, k)

        def codegen(context, builder, signature, args):
            a_out, to, a_ring, at, slot, slots, step, a_weights, n = args
            kinds = signature.args
            base = pointer_to(context, builder, kinds[2], a_ring, at)
            weight = pointer_to(context, builder, kinds[7], a_weights, ir.Constant(at.type, 0))
            zero = ir.Constant(ir.VectorType(ir.FloatType(), lanes), [0.0] * lanes)
            total = cgutils.alloca_once_value(builder, zero)
            place = cgutils.alloca_once_value(builder, slot)
            with cgutils.for_range(builder, n) as loop:
                here = builder.load(place)
                row = _load(builder, builder.gep(base, [builder.mul(here, step)]), lanes)
                value = builder.load(builder.gep(weight, [loop.index]))
                _add_product(builder, total, row, spread(builder, value, lanes))
                after = builder.add(here, here.type(1))
                inside = builder.icmp_signed("<", after, slots)
                builder.store(builder.select(inside, after, here.type(0)), place)
            result = builder.load(total)
            one = ir.Constant(zero.type, [1.0] * lanes)
            result = builder.select(builder.fcmp_ordered("<", result, zero), zero, result)
            result = builder.select(builder.fcmp_ordered(">", result, one), one, result)
            store(builder, result, pointer_to(context, builder, kinds[0], a_out, to))
            return context.get_dummy_value()

        return signature, codegen

    return blend


blend, blend_4 = _blender(LANES), _blender(4 * LANES)


@intrinsic
def prefetch(typing, data, at):
    """Have the cache line of data[at] brought near, without waiting for it."""
    signature = types.void(data, types.intp)

    def codegen(context, builder, signature, args):
        pointer = pointer_to(context, builder, signature.args[0], args[0], args[1])
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def claim(typing, counter, amount):
    """Add to counter[0] and return what it was, whatever other threads do meanwhile."""
    signature = types.intp(counter, types.intp)

    def codegen(context, builder, signature, args):
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", pointer, args[1], "monotonic")

    return signature, codegen
