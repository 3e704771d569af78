"""Steps of tensor cores as intrinsics for TVM's schedules: load a fragment, multiply two, store the sums.

TVM has such intrinsics for fp16 and int8, in a module whose import parses some 250 functions, which takes longer than
most compiles. These are built directly, for every type of operand that `device/fragments.cuh` implements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.templates.tiles import STEP
from edgec.compiler.kernels.tir import Tir

SUMS = "wmma.accumulator"
_SIZES = (STEP, STEP, STEP)
_Pair = tuple[PrimFunc, PrimFunc]  # what an intrinsic means, and how it is done


@cache
def tensor_steps(a: str, b: str, sums: str, staged: str, stored: str, *, rows: bool) -> dict[str, str]:
    """Register the intrinsics of a product, and name them by job.

    Args:
        a: dtype of the first operand.
        b: dtype of the second operand.
        sums: dtype of the sums.
        staged: scope of the shared memory that operands are loaded from.
        stored: scope of the shared memory that sums are stored in.
        rows: the second operand is `[depth, columns]` there, else `[columns, depth]`.

    Returns:
        names for `init`, `load_a`, `load_b`, `compute` and `store`.
    """
    made = {
        "init": _fill(sums),
        "load_a": _load(a, staged, "wmma.matrix_a", "row_major"),
        "load_b": _load(b, staged, "wmma.matrix_b", "row_major" if rows else "col_major"),
        "compute": _multiply(a, b, sums, rows),
        "store": _store(sums, stored),
    }
    names = {job: f"edgec_{job}_{a}_{b}_{sums}_{staged}_{stored}_{rows}" for job in made}
    for job, (meaning, way) in made.items():
        TensorIntrin.register(names[job], meaning, way, override=True)
    return names


class _Function:
    """A function over square buffers; strides are variables where it says how something is done."""

    def __init__(self, *, strided: bool) -> None:
        self._strided = strided

    @contextmanager
    def building(self) -> Iterator[IRBuilder]:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            yield builder

    def buffer(self, name: str, dtype: str, scope: str) -> Tir:
        strides = [tirx.Var(f"{name}_{at}", "int32") for at in (1, 0)] if self._strided else None
        made = T.buffer((STEP, STEP), dtype, scope=scope, align=64, offset_factor=STEP, strides=strides)
        return T.arg(name, made)


def _whole(buffer: Tir) -> Tir:
    return buffer[0:STEP, 0:STEP]


def _place(fragment: Tir) -> Tir:
    """The number of a fragment among those of its buffer."""
    row = fragment.strides[0]
    return fragment.elem_offset // row // STEP * (row // STEP) + fragment.elem_offset % row // STEP


def _copy(source: Tir, target: Tir) -> None:
    with T.grid(STEP, STEP) as (i, j), T.sblock("copy"):
        row, column = T.axis.spatial(STEP, i), T.axis.spatial(STEP, j)
        T.buffer_store(target, source[row, column], [row, column])


def _moving(source: tuple[str, str], target: tuple[str, str], how: Callable[[Tir, Tir], Tir]) -> _Pair:
    """A copy between buffers (dtype and scope)."""
    made = []
    for strided in (False, True):
        function = _Function(strided=strided)
        with function.building() as builder:
            a = function.buffer("a", *source)
            c = function.buffer("c", *target)
            with T.sblock("root"):
                T.reads(_whole(a))
                T.writes(_whole(c))
                if strided:
                    T.evaluate(how(a, c))
                else:
                    _copy(a, c)
        made.append(builder.get())
    return made[0], made[1]


def _load(dtype: str, source: str, target: str, layout: str) -> _Pair:
    def how(a: Tir, c: Tir) -> Tir:
        staged = a.access_ptr("r", ptr_type=dtype)
        return T.tvm_load_matrix_sync(c.data, *_SIZES, _place(c), staged, a.strides[0], layout, dtype="void")

    return _moving((dtype, source), (dtype, target), how)


def _store(dtype: str, scope: str) -> _Pair:
    def how(a: Tir, c: Tir) -> Tir:
        target = c.access_ptr("w", ptr_type=dtype)
        return T.tvm_store_matrix_sync(
            a.data, *_SIZES, _place(a), target, c.strides[0], "row_major", dtype="void"
        )

    return _moving((dtype, SUMS), (dtype, scope), how)


def _fill(dtype: str) -> _Pair:
    made = []
    for strided in (False, True):
        function = _Function(strided=strided)
        with function.building() as builder:
            c = function.buffer("c", dtype, SUMS)
            with T.sblock("root"):
                T.reads()
                T.writes(_whole(c))
                zero = tirx.const(0, dtype)
                if strided:
                    T.evaluate(T.tvm_fill_fragment(c.data, *_SIZES, _place(c), zero, dtype="void"))
                else:
                    with T.grid(STEP, STEP) as (i, j), T.sblock("init"):
                        T.buffer_store(c, zero, [T.axis.spatial(STEP, i), T.axis.spatial(STEP, j)])
        made.append(builder.get())
    return made[0], made[1]


def _multiply(first: str, second: str, sums: str, rows: bool) -> _Pair:
    made = []
    for strided in (False, True):
        function = _Function(strided=strided)
        with function.building() as builder:
            a = function.buffer("a", first, "wmma.matrix_a")
            b = function.buffer("b", second, "wmma.matrix_b")
            c = function.buffer("c", sums, SUMS)
            with T.sblock("root"):
                T.reads(_whole(c), _whole(a), _whole(b))
                T.writes(_whole(c))
                if strided:
                    places = [part for one in (c, a, b, c) for part in (one.data, _place(one))]
                    T.evaluate(T.tvm_mma_sync(*places, dtype="void"))
                else:
                    with T.grid(STEP, STEP, STEP) as (i, j, k), T.sblock(""):
                        row, column = T.axis.spatial(STEP, i), T.axis.spatial(STEP, j)
                        depth = T.axis.reduce(STEP, k)
                        product = tirx.Cast(sums, a[row, depth]) * tirx.Cast(
                            sums, b[depth, column] if rows else b[column, depth]
                        )
                        T.buffer_store(c, c[row, column] + product, [row, column])
        made.append(builder.get())
    return made[0], made[1]
