"""Softmax, layer and root-mean-square normalisation over the last axis: rows in vectors, in the first cache.

These kernels are written in their final form (attribute `tirx.is_scheduled`); nothing is fused into them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import AllocBuffer, Buffer, BufferStore, PrimFunc, Stmt

from edgec.compiler.backends.cpu.templates.loop_nests import Expr, const, loop, parallel, seq, vectorised
from edgec.compiler.backends.cpu.templates.vector_math import with_vector_math

# Waking the thread pool costs some microseconds; fewer elements than this are one thread's work.
PARALLEL_ELEMENTS = 16_384
OPAQUE = 8  # the operator pattern of a kernel that takes part in no fusion


class _Row:
    """Loops over the elements of one row, and sums over it that are kept in one vector."""

    def __init__(self, length: int, lanes: int) -> None:
        self.length, self.lanes = length, lanes
        self.partial = tirx.decl_buffer((lanes,), "float32", "partial", scope="local")
        self.total = tirx.decl_buffer((1,), "float32", "total", scope="local")

    def spans(self, body: Callable[[Expr, int], Stmt]) -> Stmt:
        """`body(first, width)` for each vector of the row and for what is left of it."""
        whole, rest = divmod(self.length, self.lanes)
        steps = [loop(whole, lambda i: body(i * const(self.lanes), self.lanes), "i")] if whole else []
        return seq([*steps, body(const(whole * self.lanes), rest)] if rest else steps)

    def each(self, body: Callable[[Expr], Stmt]) -> Stmt:
        """`body` for each element, in vectors and then what is left of the row."""
        return self.spans(lambda first, width: vectorised(width, lambda v: body(first + v)))

    def reduce(
        self,
        start: float,
        combine: Callable[[Expr, Expr], Expr],
        element: Callable[[Expr], Expr],
        before: Callable[[Expr], Stmt] | None = None,
    ) -> list[Stmt]:
        """Combine `element(i)` over the row into `total`; `before` may store something for the element first."""
        lanes = self.lanes

        def chunk(first: Expr, v: Expr) -> Stmt:
            update = BufferStore(self.partial, combine(self.partial[v], element(first + v)), [v])
            return update if before is None else seq([before(first + v), update])

        whole, rest = divmod(self.length, lanes)
        value = tirx.FloatImm("float32", start)
        steps: list[Stmt] = [vectorised(lanes, lambda v: BufferStore(self.partial, value, [v]))]
        if whole:
            steps.append(loop(whole, lambda i: vectorised(lanes, lambda v: chunk(i * const(lanes), v)), "i"))
        if rest:
            steps.append(vectorised(rest, lambda v: chunk(const(whole * lanes), v)))
        # Halves upon halves: the order of a sum does not depend on the row.
        width = lanes // 2
        while width:
            steps.append(vectorised(width, partial(self._fold, combine, width)))
            width //= 2
        return [*steps, BufferStore(self.total, self.partial[const(0)], [const(0)])]

    def _fold(self, combine: Callable[[Expr, Expr], Expr], width: int, v: Expr) -> Stmt:
        return BufferStore(self.partial, combine(self.partial[v], self.partial[v + const(width)]), [v])

    @property
    def result(self) -> Expr:
        """What the last `reduce` made."""
        return self.total[const(0)]


def _kernel(params: list[Buffer], row: _Row, body: Callable[..., list[Stmt]]) -> PrimFunc:
    """One task a row; `body` gets the indices of the row."""
    shape = [int(dim) for dim in params[-1].ty.shape]

    def task(*at: Expr) -> Stmt:
        return seq([AllocBuffer(row.partial), AllocBuffer(row.total), *body(*at)])

    return _final(params, shape[:-1], task)


def _final(params: list[Buffer], extents: list[int], task: Callable[..., Stmt]) -> PrimFunc:
    """A kernel in its final form, of one task for each index of `extents`."""
    size = math.prod(int(dim) for dim in params[-1].ty.shape)
    # TVM's graph passes look into every kernel and expect a root block there.
    root = SBlock([], [], [], "root", parallel(extents, task, 2 if size >= PARALLEL_ELEMENTS else 1))
    func = with_vector_math(PrimFunc(params, SBlockRealize([], True, root)))
    attrs = {"tirx.noalias": True, "s_tir": True, "tirx.is_scheduled": True, "op_pattern": OPAQUE}
    return func.with_attrs(attrs)


def _buffer(shape: tuple[int, ...], name: str) -> Buffer:
    return tirx.decl_buffer(shape, "float32", name, data_alignment=64)


def softmax(shape: tuple[int, ...], lanes: int) -> PrimFunc:
    """Softmax of a float32 tensor of `shape` (rank 2 or more) over its last axis."""
    data, out = _buffer(shape, "data"), _buffer(shape, "out")
    row = _Row(shape[-1], lanes)
    top = tirx.decl_buffer((1,), "float32", "top", scope="local")

    def body(*at: Expr) -> list[Stmt]:
        def exponential(i: Expr) -> Stmt:
            return BufferStore(out, tirx.exp(data[*at, i] - top[const(0)]), [*at, i])

        return [
            AllocBuffer(top),
            *row.reduce(float("-inf"), tirx.max, lambda i: data[*at, i]),
            BufferStore(top, row.result, [const(0)]),
            *row.reduce(0.0, lambda a, b: a + b, lambda i: out[*at, i], before=exponential),
            BufferStore(top, tirx.FloatImm("float32", 1.0) / row.result, [const(0)]),
            row.each(lambda i: BufferStore(out, out[*at, i] * top[const(0)], [*at, i])),
        ]

    return _kernel([data, out], row, body)


def softmax_across(shape: tuple[int, ...], axis: int, lanes: int) -> PrimFunc:
    """Softmax of a float32 tensor of `shape` over an `axis` that is not the last: a vector of rows at a time."""
    data, out = _buffer(shape, "data"), _buffer(shape, "out")
    row = _Row(shape[-1], lanes)
    held = tirx.decl_buffer((lanes,), "float32", "held", scope="local")
    total = tirx.decl_buffer((lanes,), "float32", "sums", scope="local")
    outer = [*shape[:axis], *shape[axis + 1 : -1]]

    def body(*at: Expr) -> Stmt:
        def columns(first: Expr, width: int) -> Stmt:
            def over(step: Callable[[Expr, list[Expr]], Stmt]) -> Stmt:
                def one(k: Expr) -> Stmt:
                    place = [*at[:axis], k, *at[axis:]]
                    return vectorised(width, lambda v: step(v, [*place, first + v]))

                return loop(shape[axis], one, "k")

            def each(step: Callable[[Expr], Stmt]) -> Stmt:
                return vectorised(width, step)

            def exponential(v: Expr, place: list[Expr]) -> Stmt:
                store = BufferStore(out, tirx.exp(data[*place] - held[v]), place)
                return seq([store, BufferStore(total, total[v] + out[*place], [v])])

            low, zero, one = (tirx.FloatImm("float32", x) for x in (float("-inf"), 0.0, 1.0))
            return seq(
                [
                    each(lambda v: BufferStore(held, low, [v])),
                    over(lambda v, place: BufferStore(held, tirx.max(held[v], data[*place]), [v])),
                    each(lambda v: BufferStore(total, zero, [v])),
                    over(exponential),
                    each(lambda v: BufferStore(held, one / total[v], [v])),
                    over(lambda v, place: BufferStore(out, out[*place] * held[v], place)),
                ]
            )

        return seq([AllocBuffer(held), AllocBuffer(total), row.spans(columns)])

    return _final([data, out], outer, body)


def layer_norm(shape: tuple[int, ...], epsilon: float, lanes: int) -> PrimFunc:
    """Layer normalisation of a float32 tensor of `shape` over its last axis; parameters data, scale, shift, out.

    The variance is the mean square distance from the mean, in a second pass: no cancellation.
    """
    data, out = _buffer(shape, "data"), _buffer(shape, "out")
    scale, shift = _buffer(shape[-1:], "scale"), _buffer(shape[-1:], "shift")
    row = _Row(shape[-1], lanes)
    moments = tirx.decl_buffer((2,), "float32", "moments", scope="local")
    mean, factor = moments[const(0)], moments[const(1)]
    inverse = tirx.FloatImm("float32", 1.0 / shape[-1])
    small = tirx.FloatImm("float32", epsilon)

    def body(*at: Expr) -> list[Stmt]:
        def square(i: Expr) -> Expr:
            return (data[*at, i] - mean) * (data[*at, i] - mean)

        def normal(i: Expr) -> Stmt:
            return BufferStore(out, (data[*at, i] - mean) * factor * scale[i] + shift[i], [*at, i])

        one = tirx.FloatImm("float32", 1.0)
        return [
            AllocBuffer(moments),
            *row.reduce(0.0, lambda a, b: a + b, lambda i: data[*at, i]),
            BufferStore(moments, row.result * inverse, [const(0)]),
            *row.reduce(0.0, lambda a, b: a + b, square),
            BufferStore(moments, one / tirx.sqrt(row.result * inverse + small), [const(1)]),
            row.each(normal),
        ]

    return _kernel([data, scale, shift, out], row, body)


def rms_norm(shape: tuple[int, ...], epsilon: float, lanes: int) -> PrimFunc:
    """Division of a float32 tensor of `shape` by the root of its mean square over its last axis; data, scale, out."""
    data, out, scale = _buffer(shape, "data"), _buffer(shape, "out"), _buffer(shape[-1:], "scale")
    row = _Row(shape[-1], lanes)
    factor = tirx.decl_buffer((1,), "float32", "factor", scope="local")
    inverse, small = tirx.FloatImm("float32", 1.0 / shape[-1]), tirx.FloatImm("float32", epsilon)

    def body(*at: Expr) -> list[Stmt]:
        def normal(i: Expr) -> Stmt:
            return BufferStore(out, data[*at, i] * factor[const(0)] * scale[i], [*at, i])

        one = tirx.FloatImm("float32", 1.0)
        return [
            AllocBuffer(factor),
            *row.reduce(0.0, lambda a, b: a + b, lambda i: data[*at, i] * data[*at, i]),
            BufferStore(factor, one / tirx.sqrt(row.result * inverse + small), [const(0)]),
            row.each(normal),
        ]

    return _kernel([data, scale, out], row, body)
