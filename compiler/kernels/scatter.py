"""Elements and slices of a tensor written, or combined with others, by index.

An index is counted from the end where it is negative; what it is out of range for is not written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.tir import Tir

REDUCTIONS: dict[str, Callable[[Tir, Tir], Tir]] = {
    "none": lambda _old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": tirx.max,
    "min": tirx.min,
}


def scattered_elements(
    symbol: str,
    shape: Sequence[int],
    places: Sequence[int],
    axis: int,
    dtypes: tuple[str, str],
    reduction: str,
) -> PrimFunc:
    """A function that writes `updates` to `x`, each to its own place but for the index along one axis.

    Args:
        symbol: the function's name.
        shape: of `x` and the result.
        places: the shape of the indices and updates.
        axis: the axis of the indices.
        dtypes: of the elements and of the indices.
        reduction: how an update is combined with what is there.
    """
    steps, count = _strides(shape), math.prod(places)

    def write(x: Tir, where: Tir, updates: Tir, y: Tir) -> None:
        with T.serial(0, count) as i:
            index, offset, rest = where[i].astype("int64"), _i64(0), i.astype("int64")
            for a in range(len(places) - 1, -1, -1):
                if a != axis:
                    offset = offset + rest % places[a] * steps[a]
                rest = rest // places[a]
            with T.If(_in_range(index, shape[axis])), T.Then():
                at = offset + _counted(index, shape[axis]) * steps[axis]
                T.buffer_store(y, REDUCTIONS[reduction](y[at], updates[i]), [at])

    sizes = {"x": math.prod(shape), "where": count, "updates": count}
    return _function(symbol, sizes, dtypes, write)


def scattered_slices(
    symbol: str, shape: Sequence[int], places: tuple[int, int], dtypes: tuple[str, str], reduction: str
) -> PrimFunc:
    """A function that writes slices of `updates` to `x` by the indices of their first axes.

    Args:
        symbol: the function's name.
        shape: of `x` and the result.
        places: the shape of the indices, `[slices, axes]`.
        dtypes: of the elements and of the indices.
        reduction: how an update is combined with what is there.
    """
    count, depth = places
    inner, steps = math.prod(shape[depth:]), _strides(shape)

    def write(x: Tir, where: Tir, updates: Tir, y: Tir) -> None:
        with T.serial(0, count) as i:
            index = [where[i * depth + k].astype("int64") for k in range(depth)]
            inside = tirx.const(True, "bool")
            begin = _i64(0)
            for k in range(depth):
                inside = tirx.And(inside, _in_range(index[k], shape[k]))
                begin = begin + _counted(index[k], shape[k]) * steps[k]
            with T.If(inside), T.Then(), T.serial(0, inner) as j:
                T.buffer_store(y, REDUCTIONS[reduction](y[begin + j], updates[i * inner + j]), [begin + j])

    sizes = {"x": math.prod(shape), "where": count * depth, "updates": count * inner}
    return _function(symbol, sizes, dtypes, write)


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[a + 1 :]) for a in range(len(shape))]


def _in_range(index: Tir, size: int) -> Tir:
    return tirx.And(index >= _i64(-size), index < _i64(size))


def _counted(index: Tir, size: int) -> Tir:
    """An index from the front."""
    return index + tirx.Select(index < _i64(0), _i64(size), _i64(0))


def _i64(value: int) -> Tir:
    return tirx.IntImm("int64", value)


def _function(
    symbol: str,
    sizes: dict[str, int],
    dtypes: tuple[str, str],
    write: Callable[[Tir, Tir, Tir, Tir], None],
) -> PrimFunc:
    """A function of flat buffers that copies `x` to `y` and then writes."""
    dtype, index = dtypes
    with IRBuilder() as builder, T.prim_func():
        T.func_name(symbol)
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        kinds = {"x": dtype, "where": index, "updates": dtype}
        given = {name: T.arg(name, T.buffer((size,), kinds[name])) for name, size in sizes.items()}
        y = T.arg("y", T.buffer((sizes["x"],), dtype))
        with T.sblock("root"), T.sblock("scatter"):
            T.reads(*[buffer[0:size] for buffer, size in zip(given.values(), sizes.values(), strict=True)])
            T.writes(y[0 : sizes["x"]])
            with T.serial(0, sizes["x"]) as i:
                T.buffer_store(y, given["x"][i], [i])
            write(given["x"], given["where"], given["updates"], y)
    return builder.get()
