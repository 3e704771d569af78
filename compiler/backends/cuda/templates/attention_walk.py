"""The walk of an attention's kernel over its keys, apart from how products are computed (see `attention.py`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.templates.attention_tiles import AttentionTile
from edgec.compiler.backends.cuda.templates.tiles import STEP, WARP
from edgec.compiler.graph.attention_spec import AttentionSpec, AttentionTypes, View
from edgec.compiler.kernels.loops import store
from edgec.compiler.kernels.tir import Tir, f32, i32

ELEMENTS = 8  # of 16 x 16 scores, that a lane holds


class AttentionWalk(ABC):
    """What both ways share: the walk, the softmax, the result."""

    def __init__(self, spec: AttentionSpec, types: AttentionTypes, tile: AttentionTile) -> None:
        self.spec, self.types, self.tile = spec, types, tile
        self.inner, self.cols = _padded(spec.inner), _padded(spec.cols)
        self.rows = STEP * tile.warps
        self.tiles = -(-spec.rows // self.rows)
        self.rounds = -(-spec.keys // tile.keys)
        self.groups, self.parts = tile.keys // STEP, self.cols // STEP  # of keys; of columns

    def build(self) -> PrimFunc:
        """The function."""
        spec, types = self.spec, self.types
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("attention")
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            self.query, self.key, self.value = (
                T.arg(name, T.buffer(view.shape, types.operands))
                for name, view in (("query", spec.query), ("key", spec.key), ("value", spec.value))
            )
            self.mask = T.arg("mask", T.buffer(spec.mask.shape, types.mask)) if spec.mask else None
            self.out = T.arg("out", T.buffer(spec.out_shape, types.result))
            blocks = self.tiles * math.prod(spec.batch)
            with (
                T.launch_thread("blockIdx.x", blocks) as self.block,
                T.launch_thread("threadIdx.x", WARP) as self.lane,
                T.launch_thread("threadIdx.y", self.tile.warps) as self.warp,
            ):
                self._block()
        made: PrimFunc = builder.get()
        return made

    def _block(self) -> None:
        at = tirx.floordiv(self.block, self.tiles)
        batch: list[Tir] = []
        for extent in reversed(self.spec.batch):
            batch.insert(0, tirx.floormod(at, extent))
            at = tirx.floordiv(at, extent)
        self.batch = batch
        self.first = tirx.floormod(self.block, self.tiles) * self.rows
        self.allocate()
        self.scores = T.alloc_buffer((self.groups * ELEMENTS,), "float32", scope="local")
        self.sums = T.alloc_buffer((self.parts * ELEMENTS,), "float32", scope="local")
        self.top, self.best, self.total, self.change = (
            T.alloc_buffer((2,), "float32", scope="local") for _ in range(4)
        )
        with T.unroll(self.parts * ELEMENTS) as i:
            store(self.sums, f32(0), i)
        with T.unroll(2) as half:
            store(self.top, f32(-math.inf), half)
            store(self.total, f32(0), half)
        self.visited = self._visited()
        self.begin()
        with T.serial(*self.visited) as number:
            self.stage(number)
            self.multiply_keys(number)
            self._softmax(number)
            self.multiply_values(number)
        self._finish()

    def _visited(self) -> tuple[Tir, Tir]:
        """The first of the block's rounds, and the one behind the last: of keys that its queries see."""
        band, keys = self.types.band, self.tile.keys
        if band is None:
            return i32(0), i32(self.rounds)
        last = tirx.min(self.first + (self.rows - 1 + band.last), i32(self.spec.keys - 1))
        end = tirx.max(tirx.floordiv(last, keys) + 1, i32(0))
        begin = tirx.floordiv(tirx.max(self.first + band.first, i32(0)), keys)
        return tirx.min(begin, end), end

    def element(self, number: int) -> tuple[Tir, Tir]:
        """Row and column, in a warp's 16 x 16 scores, of a lane's element."""
        row = tirx.floordiv(self.lane, 4) + 8 * (number // 2 % 2)
        return row, tirx.floormod(self.lane, 4) * 2 + 8 * (number // 4) + number % 2

    def row_of(self, number: int) -> Tir:
        """The query of a lane's element; the last one for those behind it."""
        row = self.first + self.warp * STEP + self.element(number)[0]
        return row if self.spec.rows % self.rows == 0 else tirx.min(row, i32(self.spec.rows - 1))

    def _softmax(self, number: Tir) -> None:
        """From products to weights, not yet divided by their sum; what was added before is corrected."""
        with each(self.groups) as group:
            for element in range(ELEMENTS):
                at = group * ELEMENTS + element
                store(self.scores, self._score(number, group, element, self.scores[at]), at)
        for half in (0, 1):
            store(self.best, self.top[half], half)
        with each(self.groups) as group:
            for element in range(ELEMENTS):
                one, best = self.scores[group * ELEMENTS + element], self.best[element // 2 % 2]
                store(self.best, tirx.Select(one > best, one, best), element // 2 % 2)
        self.over_rows(self.best, largest=True)
        for half in (0, 1):
            store(self.change, tirx.exp(self.top[half] - self._base(half)), half)
            store(self.top, self.best[half], half)
            store(self.total, self.total[half] * self.change[half], half)
        with each(self.parts) as part:
            for element in range(ELEMENTS):
                at = part * ELEMENTS + element
                store(self.sums, self.sums[at] * self.change[element // 2 % 2], at)
        with each(self.groups) as group:
            for element in range(ELEMENTS):
                at, half = group * ELEMENTS + element, element // 2 % 2
                store(self.scores, tirx.exp(self.scores[at] - self._base(half)), at)
                store(self.total, self.total[half] + self.scores[at], half)

    def _base(self, half: int) -> Tir:
        """What exponents are relative to: the largest score, and 0 while there are none but -inf."""
        best = self.best[half]
        return tirx.Select(best.equal(f32(-math.inf)), f32(0), best)

    def _score(self, number: Tir, group: Tir, element: int, product: Tir) -> Tir:
        """A product, scaled and masked; -inf behind the last key."""
        spec, types = self.spec, self.types
        key = number * self.tile.keys + group * STEP + self.element(element)[1]
        score = product * f32(spec.scale) if spec.scale != 1.0 else product
        if self.mask is not None and spec.mask is not None:
            masked = self.mask[tuple(spec.mask.at([*self.batch, self.row_of(element), key]))]
            score = tirx.Select(masked, score, f32(types.fill)) if types.mask == "bool" else score + masked
        if spec.keys % self.tile.keys == 0:
            return score
        return T.if_then_else(key < spec.keys, score, f32(-math.inf))

    def _finish(self) -> None:
        self.over_rows(self.total, largest=False)
        for half in (0, 1):
            whole = self.total[half]
            if self.types.zeros:  # of a query without keys all weights are zeros, and so is their sum: NaN
                whole = tirx.Select(whole.equal(f32(0)), f32(1), whole)
            store(self.total, f32(1) / whole, half)
        logical = len(self.spec.batch)
        with each(self.parts) as part:
            for element in range(ELEMENTS):
                row, column = self.element(element)
                row, column = self.first + self.warp * STEP + row, part * STEP + column
                position = [*self.batch, row, column]
                place = [position[axis] for axis in self.spec.order]
                share = self.sums[part * ELEMENTS + element] * self.total[element // 2 % 2]
                made = share if self.types.result == "float32" else tirx.Cast(self.types.result, share)
                inside = [
                    position[logical + axis] < extent
                    for axis, extent in enumerate((self.spec.rows, self.spec.cols))
                    if extent % (self.rows, STEP)[axis]
                ]
                if inside:
                    with T.If(tirx.all(*inside)), T.Then():
                        store(self.out, made, *place)
                else:
                    store(self.out, made, *place)

    def copy(
        self, view: View, buffer: Tir, target: Tir, at: Tir, shape: tuple[int, int], stride: int, begin: Tir,
        limits: tuple[int, int], way: Callable[[Tir, Tir, Sequence[Tir], Tir], None] | None,
    ) -> None:  # fmt: skip
        """Copy rows of an operand to shared memory, all threads together; zeros where there are none.

        Args:
            view: where the operand lies in `buffer`.
            buffer: the parameter.
            target: shared memory.
            at: where in it.
            shape: rows, and elements of each that are written.
            stride: elements between rows there.
            begin: the first row that is read.
            limits: rows of the operand, and elements of each.
            way: copies a vector of `self.vector` elements; None copies one element.
        """
        vector = self.vector if way else 1
        rows, width = shape
        count, threads = rows * width // vector, WARP * self.tile.warps
        with T.serial(0, -(-count // threads)) as step:
            number = step * threads + self.warp * WARP + self.lane
            row, column = (
                tirx.floordiv(number, width // vector),
                tirx.floormod(number, width // vector) * vector,
            )
            wanted = [begin + row < limits[0]] + ([column < limits[1]] if width != limits[1] else [])
            place = at + row * stride + column
            with T.If(number < count), T.Then():
                if way:
                    source = tirx.min(begin + row, i32(limits[0] - 1))
                    inside = column if width == limits[1] else tirx.min(column, i32(limits[1] - vector))
                    way(target, place, view.at([*self.batch, source, inside]), tirx.all(*wanted))
                else:
                    element = buffer[tuple(view.at([*self.batch, begin + row, column]))]
                    zero = tirx.const(0, self.types.operands)
                    store(target, T.if_then_else(tirx.all(*wanted), element, zero), place)

    vector = 1

    @abstractmethod
    def allocate(self) -> None:
        """Shared memory."""

    @abstractmethod
    def begin(self) -> None:
        """What is done before the walk."""

    @abstractmethod
    def stage(self, number: Tir) -> None:
        """Bring the keys and values of a round to shared memory."""

    @abstractmethod
    def multiply_keys(self, number: Tir) -> None:
        """Scores of a round."""

    @abstractmethod
    def multiply_values(self, number: Tir) -> None:
        """Add a round's values by their weights."""

    @abstractmethod
    def over_rows(self, values: Tir, *, largest: bool) -> None:
        """Maximum or sum over the four lanes that hold the same rows."""


@contextmanager
def each(count: int) -> Iterator[Tir]:
    """A loop whose body is written out for each number."""
    with T.unroll(count) as number:
        yield number


def _padded(extent: int) -> int:
    return -(-extent // STEP) * STEP


def barrier() -> None:
    """All threads of the block wait for each other, and see what the others wrote to shared memory."""
    T.evaluate(T.tvm_storage_sync("shared"))
