"""The different elements of a tensor, or its different rows."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, add, counter, function, i64, store
from edgec.compiler.kernels.order import Keys, Sorter
from edgec.compiler.kernels.tir import Tir


def grouped(symbol: str, size: Tir, width: Tir, dtype: str) -> PrimFunc:
    """A function that numbers the groups of equal rows in ascending order; rows compare from the first element on.

    Args:
        symbol: its name.
        size: number of rows.
        width: their length.
        dtype: of the elements.

    Returns:
        a function of `x [size, width]` with the results `groups [size]` (int64) and `count [1]` (int64).
    """
    keys = Keys(dtype)

    def body(b: Buffers) -> None:
        x, groups = b["x"], b["groups"]
        order = _by_radix(keys, x) if isinstance(width, int) and width == 1 else _by_merging(keys, x)
        number = counter()
        with T.serial(0, x.shape[0]) as i:
            with T.If(tirx.all(i > 0, _differ(keys, x, order(tirx.max(i - 1, 0)), order(i)))), T.Then():
                add(number)
            store(groups, number[0], order(i))
        # without any row there is no group
        store(b["count"], tirx.if_then_else(x.shape[0] > 0, number[0] + 1, i64(0)), 0)

    made = {"groups": ((size,), "int64"), "count": ((1,), "int64")}
    return function(symbol, {"x": ((size, width), dtype)}, made, body)


def _by_radix(keys: Keys, x: Tir) -> Tir:
    sorter = Sorter.allocate(keys, x.shape[0])
    with T.serial(0, x.shape[0]) as i:
        sorter.add(keys.of(x[i, 0]), i)
    sorter.sort()
    return lambda i: sorter.at(i)


def _by_merging(keys: Keys, x: Tir) -> Tir:
    """Merge sort of rows: stable, from runs of one row on."""
    size = i64(x.shape[0]) if isinstance(x.shape[0], int) else x.shape[0]
    places, begin, run = T.alloc_buffer((x.shape[0] * 2,), "int32"), counter(), counter(1)
    with T.serial(0, size) as i:
        store(places, i.astype("int32"), i)
    with T.While(run[0] < size):
        other, start = size - begin[0], counter()
        with T.While(start[0] < size):
            middle, end = tirx.min(start[0] + run[0], size), tirx.min(start[0] + run[0] * 2, size)
            left, right = counter(start[0]), counter(middle)
            with T.serial(0, end - start[0]) as i:
                to = other + start[0] + i
                mine = places[begin[0] + tirx.min(left[0], size - 1)]
                theirs = places[begin[0] + tirx.min(right[0], size - 1)]
                later = counter(_precedes(keys, x, theirs, mine, tirx.all(left[0] < middle, right[0] < end)))
                with T.If(tirx.any(left[0] >= middle, later[0] == i64(1))):
                    with T.Then():
                        store(places, theirs, to)
                        add(right)
                    with T.Else():
                        store(places, mine, to)
                        add(left)
            add(start, run[0] * 2)
        store(begin, other, 0)
        store(run, run[0] * 2, 0)
    return lambda i: places[begin[0] + i]


def _precedes(keys: Keys, x: Tir, one: Tir, other: Tir, asked: Tir) -> Tir:
    """1 where a row comes before another one (and that is asked), else 0."""
    state, column = counter(), counter()  # 0: equal so far, 1: before, 2: behind
    with T.While(tirx.all(asked, state[0] == i64(0), column[0] < x.shape[1])):
        at = tirx.min(column[0], i64(1) * x.shape[1] - 1)
        a, b = keys.of(x[one, at]), keys.of(x[other, at])
        store(state, tirx.Select(a < b, i64(1), tirx.Select(b < a, i64(2), i64(0))), 0)
        add(column)
    return state[0]


def _differ(keys: Keys, x: Tir, one: Tir, other: Tir) -> Tir:
    state, column = counter(), counter()
    with T.While(tirx.all(state[0] == i64(0), column[0] < x.shape[1])):
        at = tirx.min(column[0], i64(1) * x.shape[1] - 1)
        unequal = keys.of(x[one, at]) != keys.of(x[other, at])
        store(state, tirx.Select(unequal, i64(1), i64(0)), 0)
        add(column)
    return state[0] == i64(1)


def described(symbol: str, size: Tir, count: Tir, *, ascending: bool) -> PrimFunc:
    """A function that says of each group where it begins and how many rows it has.

    Args:
        symbol: its name.
        size: number of rows.
        count: number of groups.
        ascending: groups keep their order; otherwise they are in the order in which they appear.

    Returns:
        a function of `groups [size]` with the results `first [count]`, `inverse [size]` and `counts [count]` (int64).
    """

    def body(b: Buffers) -> None:
        groups, first, counts = b["groups"], b["first"], b["counts"]
        numbers, seen = T.alloc_buffer((first.shape[0],), "int64"), counter()
        with T.serial(0, first.shape[0]) as g:
            store(numbers, i64(-1), g)
            store(counts, i64(0), g)
        with T.serial(0, groups.shape[0]) as i:
            group = groups[i]
            with T.If(numbers[group] < i64(0)), T.Then():
                store(numbers, group if ascending else seen[0], group)
                store(first, i.astype("int64"), numbers[group])
                add(seen)
            store(b["inverse"], numbers[group], i)
            store(counts, counts[numbers[group]] + i64(1), numbers[group])

    made = {"first": ((count,), "int64"), "inverse": ((size,), "int64"), "counts": ((count,), "int64")}
    return function(symbol, {"groups": ((size,), "int64")}, made, body)
