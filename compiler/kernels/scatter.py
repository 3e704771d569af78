"""Elements and slices of a tensor written, or combined with others, by index.

An index is counted from the end where it is negative; what it is out of range for is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, Shape, function, i64, store
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
    shape: Shape,
    places: Shape,
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
    dtype, kind = dtypes

    def body(b: Buffers) -> None:
        _copy(b["x"], b["y"])
        with _over(b["where"].shape) as at:
            size = _wide(b["y"].shape[axis])
            index = b["where"][tuple(at)].astype("int64")
            with T.If(_in_range(index, size)), T.Then():
                to = list(at)
                to[axis] = _counted(index, size)
                new = REDUCTIONS[reduction](b["y"][tuple(to)], b["updates"][tuple(at)])
                store(b["y"], new, *to)

    given = {"x": (shape, dtype), "where": (places, kind), "updates": (places, dtype)}
    return function(symbol, given, {"y": (shape, dtype)}, body)


def scattered_slices(
    symbol: str, shape: Shape, count: Tir, depth: int, dtypes: tuple[str, str], reduction: str
) -> PrimFunc:
    """A function that writes slices of `updates` to `x` by the indices of their first axes.

    Args:
        symbol: the function's name.
        shape: of `x` and the result.
        count: how many slices; the indices are `[count, depth]`, the updates `[count, *shape[depth:]]`.
        depth: how many axes the indices name.
        dtypes: of the elements and of the indices.
        reduction: how an update is combined with what is there.
    """
    dtype, kind = dtypes

    def body(b: Buffers) -> None:
        _copy(b["x"], b["y"])
        sizes = [_wide(one) for one in b["y"].shape[:depth]]
        with T.serial(0, b["where"].shape[0]) as i:
            index = [b["where"][i, k].astype("int64") for k in range(depth)]
            inside = tirx.const(True, "bool")
            for one, size in zip(index, sizes, strict=True):
                inside = tirx.And(inside, _in_range(one, size))
            to = [_counted(one, size) for one, size in zip(index, sizes, strict=True)]
            with T.If(inside), T.Then(), _over(b["y"].shape[depth:]) as at:
                old = b["y"][(*to, *at)]
                store(b["y"], REDUCTIONS[reduction](old, b["updates"][(i, *at)]), *to, *at)

    updates = (count, *shape[depth:])
    given = {"x": (shape, dtype), "where": ((count, depth), kind), "updates": (updates, dtype)}
    return function(symbol, given, {"y": (shape, dtype)}, body)


def _copy(x: Tir, y: Tir) -> None:
    with _over(x.shape) as at:
        store(y, x[tuple(at)], *at)


@contextmanager
def _over(sizes: Sequence[Tir]) -> Iterator[list[Tir]]:
    """Loops over all places of these sizes."""
    if not sizes:
        yield []
        return
    with T.serial(0, sizes[0]) as first, _over(sizes[1:]) as rest:
        yield [first, *rest]


def _in_range(index: Tir, size: Tir) -> Tir:
    return tirx.And(index >= i64(0) - size, index < size)


def _counted(index: Tir, size: Tir) -> Tir:
    """An index from the front."""
    return index + tirx.Select(index < i64(0), size, i64(0))


def _wide(size: Tir) -> Tir:
    return i64(int(size)) if isinstance(size, int | tirx.IntImm) else size
