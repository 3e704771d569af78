"""Attention in one kernel: a block takes some queries, walks the keys in tiles, and keeps the softmax up to date.

Neither scores nor weights are ever in memory: for each tile of keys a warp computes the scores of its 16 queries,
raises the maximum of each row, corrects what was summed before by the change, and adds the values by their weights
("online softmax": Milakov and Gimelshein, 2018; in this form: Dao et al., FlashAttention, 2022). The division is
applied to the result.

Lane t of a warp holds of each 16 x 16 scores the rows t / 4 and t / 4 + 8 and, of each 8 columns, 2 (t mod 4) and the
next, as tensor cores leave their sums. With fp16 and bfloat16 both products run on them (`device/attention.cuh`), and
the next tile of keys and values is copied meanwhile. In fp32 each lane computes its elements by ordinary arithmetic.
"""

from __future__ import annotations

import math
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

LOWEST = -3.4028234663852886e38  # a row whose scores are all -inf gives NaN, as in ONNX Runtime
_ELEMENTS = 8  # of 16 x 16 scores, that a lane holds
_NAMES = {"float16": "f16", "bfloat16": "bf16"}


def emit_attention(
    spec: AttentionSpec, types: AttentionTypes, tile: AttentionTile, *, tensorised: bool
) -> PrimFunc:
    """The kernel; parameters queries, keys, values, the mask if there is one, result.

    Args:
        spec: sizes and where operands lie.
        types: of the parameters.
        tile: how it is cut.
        tensorised: use tensor cores. Without, lanes compute the same by ordinary arithmetic, which runs anywhere.
    """
    kind = _OnTensorCores if tensorised and types.operands in _NAMES else _Plain
    return kind(spec, types, tile).build()


class _Attention:
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
        self.scores = T.alloc_buffer((self.groups * _ELEMENTS,), "float32", scope="local")
        self.sums = T.alloc_buffer((self.parts * _ELEMENTS,), "float32", scope="local")
        self.top, self.best, self.total, self.change = (
            T.alloc_buffer((2,), "float32", scope="local") for _ in range(4)
        )
        with T.unroll(self.parts * _ELEMENTS) as i:
            store(self.sums, f32(0), i)
        with T.unroll(2) as half:
            store(self.top, f32(LOWEST), half)
            store(self.total, f32(0), half)
        self.begin()
        with T.serial(0, self.rounds) as number:
            self.stage(number)
            self.multiply_keys(number)
            self._softmax(number)
            self.multiply_values(number)
        self._finish()

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
        with _each(self.groups) as group:
            for element in range(_ELEMENTS):
                at = group * _ELEMENTS + element
                store(self.scores, self._score(number, group, element, self.scores[at]), at)
        for half in (0, 1):
            store(self.best, self.top[half], half)
        with _each(self.groups) as group:
            for element in range(_ELEMENTS):
                one, best = self.scores[group * _ELEMENTS + element], self.best[element // 2 % 2]
                store(self.best, tirx.Select(one > best, one, best), element // 2 % 2)
        self.over_rows(self.best, largest=True)
        for half in (0, 1):
            store(self.change, tirx.exp(self.top[half] - self.best[half]), half)
            store(self.top, self.best[half], half)
            store(self.total, self.total[half] * self.change[half], half)
        with _each(self.parts) as part:
            for element in range(_ELEMENTS):
                at = part * _ELEMENTS + element
                store(self.sums, self.sums[at] * self.change[element // 2 % 2], at)
        with _each(self.groups) as group:
            for element in range(_ELEMENTS):
                at, half = group * _ELEMENTS + element, element // 2 % 2
                store(self.scores, tirx.exp(self.scores[at] - self.top[half]), at)
                store(self.total, self.total[half] + self.scores[at], half)

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
            store(self.total, f32(1) / self.total[half], half)
        logical = len(self.spec.batch)
        with _each(self.parts) as part:
            for element in range(_ELEMENTS):
                row, column = self.element(element)
                row, column = self.first + self.warp * STEP + row, part * STEP + column
                position = [*self.batch, row, column]
                place = [position[axis] for axis in self.spec.order]
                share = self.sums[part * _ELEMENTS + element] * self.total[element // 2 % 2]
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

    def allocate(self) -> None:
        """Shared memory."""
        raise NotImplementedError

    def begin(self) -> None:
        """What is done before the walk."""
        raise NotImplementedError

    def stage(self, number: Tir) -> None:
        """Bring the keys and values of a round to shared memory."""
        raise NotImplementedError

    def multiply_keys(self, number: Tir) -> None:
        """Scores of a round."""
        raise NotImplementedError

    def multiply_values(self, number: Tir) -> None:
        """Add a round's values by their weights."""
        raise NotImplementedError

    def over_rows(self, values: Tir, *, largest: bool) -> None:
        """Maximum or sum over the four lanes that hold the same rows."""
        raise NotImplementedError


class _OnTensorCores(_Attention):
    """Operands of two bytes; queries stay in registers, keys and values are copied a round ahead."""

    vector = 8

    def allocate(self) -> None:
        """Shared memory: queries, and two rounds of keys and values; registers of queries and weights."""
        keys, operands = self.tile.keys, self.types.operands
        self.key_stride, self.value_stride = self.inner + 8, self.cols + 8  # rows begin in different banks
        self.q = T.alloc_buffer((self.rows * self.key_stride,), operands, scope="shared")
        self.k = T.alloc_buffer((2 * keys * self.key_stride,), operands, scope="shared")
        self.v = T.alloc_buffer((2 * keys * self.value_stride,), operands, scope="shared")
        self.kept = T.alloc_buffer((self.inner // STEP * 4,), "uint32", scope="local")
        self.weights = T.alloc_buffer((4,), "uint32", scope="local")

    def begin(self) -> None:
        """Queries, and the first round's copies."""
        spec = self.spec
        shape, limits = (self.rows, self.inner), (spec.rows, spec.inner)
        self._copy(spec.query, self.query, self.q, i32(0), shape, self.key_stride, self.first, limits)
        self._round(i32(0), i32(0))
        _call("edgec_close_group")
        _call("edgec_await_groups<0>")
        _barrier()
        for step in range(self.inner // STEP):
            place = T.address_of(self.q[self.warp * STEP * self.key_stride + step * STEP])
            _call("edgec_take_queries", T.address_of(self.kept[4 * step]), place, self.key_stride)

    def stage(self, number: Tir) -> None:
        """Wait for this round's copies, and start the next round's."""
        _call("edgec_await_groups<0>")
        _barrier()
        if self.rounds > 1:
            with T.If(number + 1 < self.rounds), T.Then():
                self._round(number + 1, tirx.floormod(number + 1, 2))
        _call("edgec_close_group")

    def _round(self, number: Tir, half: Tir) -> None:
        spec, keys = self.spec, self.tile.keys
        for view, source, target, width, stride, inner in (
            (spec.key, self.key, self.k, self.inner, self.key_stride, spec.inner),
            (spec.value, self.value, self.v, self.cols, self.value_stride, spec.cols),
        ):
            limits = (spec.keys, inner)
            self._copy(
                view, source, target, half * (keys * stride), (keys, width), stride, number * keys, limits
            )

    def _copy(
        self, view: View, source: Tir, target: Tir, at: Tir, shape: tuple[int, int], stride: int, begin: Tir,
        limits: tuple[int, int],
    ) -> None:  # fmt: skip
        """By 16 bytes, where they lie side by side and begin at a multiple of 16."""

        def way(to: Tir, place: Tir, indices: Sequence[Tir], wanted: Tir) -> None:
            _call("edgec_copy<16>", T.address_of(to[place]), T.address_of(source[tuple(indices)]), wanted)

        aligned = _aligned(view, len(self.spec.batch) + 1, limits[1], self.vector)
        self.copy(view, source, target, at, shape, stride, begin, limits, way if aligned else None)

    def multiply_keys(self, number: Tir) -> None:
        """Steps over the elements of queries and keys."""
        name, begin = (
            _NAMES[self.types.operands],
            tirx.floormod(number, 2) * (self.tile.keys * self.key_stride),
        )
        with T.unroll(self.groups * _ELEMENTS) as i:
            store(self.scores, f32(0), i)
        for step in range(self.inner // STEP):
            with _each(self.groups) as group:
                place = T.address_of(self.k[begin + group * (STEP * self.key_stride) + step * STEP])
                sums = T.address_of(self.scores[group * _ELEMENTS])
                _call(f"edgec_scores_{name}", sums, T.address_of(self.kept[4 * step]), place, self.key_stride)

    def multiply_values(self, number: Tir) -> None:
        """Weights are rounded in the registers where they lie."""
        name, begin = (
            _NAMES[self.types.operands],
            tirx.floormod(number, 2) * (self.tile.keys * self.value_stride),
        )
        weights = T.address_of(self.weights[0])
        with _each(self.groups) as group:
            _call(f"edgec_pack_{name}", weights, T.address_of(self.scores[group * _ELEMENTS]))
            for part in range(self.parts):
                place = T.address_of(self.v[begin + group * (STEP * self.value_stride) + part * STEP])
                sums = T.address_of(self.sums[part * _ELEMENTS])
                _call(f"edgec_mix_{name}", sums, weights, place, self.value_stride)

    def over_rows(self, values: Tir, *, largest: bool) -> None:
        """By exchange between lanes."""
        name = "edgec_quad_max" if largest else "edgec_quad_sum"
        for half in (0, 1):
            store(values, T.call_extern("float32", name, values[half]), half)


class _Plain(_Attention):
    """Each lane computes its elements; weights go through shared memory."""

    def allocate(self) -> None:
        """Shared memory: queries, keys, values, weights, and what lanes tell each other."""
        keys, operands = self.tile.keys, self.types.operands
        self.key_stride, self.value_stride, self.weight_stride = self.inner + 1, self.cols + 1, keys + 1
        self.q = T.alloc_buffer((self.rows * self.key_stride,), operands, scope="shared")
        self.k = T.alloc_buffer((keys * self.key_stride,), operands, scope="shared")
        self.v = T.alloc_buffer((keys * self.value_stride,), operands, scope="shared")
        self.weights = T.alloc_buffer((self.rows * self.weight_stride,), operands, scope="shared")
        self.told = T.alloc_buffer((self.rows * 4,), "float32", scope="shared")

    def begin(self) -> None:
        """Queries."""
        spec = self.spec
        shape, limits = (self.rows, self.inner), (spec.rows, spec.inner)
        self.copy(spec.query, self.query, self.q, i32(0), shape, self.key_stride, self.first, limits, None)

    def stage(self, number: Tir) -> None:
        """All copies of the round, once nobody reads those of the last."""
        spec, keys = self.spec, self.tile.keys
        _barrier()
        for view, source, target, width, stride, inner in (
            (spec.key, self.key, self.k, self.inner, self.key_stride, spec.inner),
            (spec.value, self.value, self.v, self.cols, self.value_stride, spec.cols),
        ):
            shape, limits = (keys, width), (spec.keys, inner)
            self.copy(view, source, target, i32(0), shape, stride, number * keys, limits, None)
        _barrier()

    def multiply_keys(self, number: Tir) -> None:
        """A step for each element of queries and keys."""
        with T.unroll(self.groups * _ELEMENTS) as i:
            store(self.scores, f32(0), i)
        with T.serial(0, self.spec.inner) as k:
            for group in range(self.groups):
                for element in range(_ELEMENTS):
                    row, column = self.element(element)
                    query = self.q[(self.warp * STEP + row) * self.key_stride + k]
                    key = self.k[(column + group * STEP) * self.key_stride + k]
                    self._add(self.scores, group * _ELEMENTS + element, query, key)

    def multiply_values(self, number: Tir) -> None:
        """A step for each key; a warp reads the weights that it wrote."""
        for group in range(self.groups):
            for element in range(_ELEMENTS):
                row, column = self.element(element)
                weight = self.scores[group * _ELEMENTS + element]
                rounded = (
                    weight if self.types.operands == "float32" else tirx.Cast(self.types.operands, weight)
                )
                place = (self.warp * STEP + row) * self.weight_stride + group * STEP + column
                store(self.weights, rounded, place)
        _barrier()
        with T.serial(0, self.tile.keys) as k:
            for part in range(self.parts):
                for element in range(_ELEMENTS):
                    row, column = self.element(element)
                    weight = self.weights[(self.warp * STEP + row) * self.weight_stride + k]
                    value = self.v[k * self.value_stride + part * STEP + column]
                    self._add(self.sums, part * _ELEMENTS + element, weight, value)

    def _add(self, sums: Tir, at: int, a: Tir, b: Tir) -> None:
        if self.types.operands != "float32":
            a, b = tirx.Cast("float32", a), tirx.Cast("float32", b)
        store(sums, sums[at] + a * b, at)

    def over_rows(self, values: Tir, *, largest: bool) -> None:
        """Through shared memory."""
        _barrier()
        for half in (0, 1):
            row = self.warp * STEP + tirx.floordiv(self.lane, 4) + 8 * half
            store(self.told, values[half], row * 4 + tirx.floormod(self.lane, 4))
        _barrier()
        for half in (0, 1):
            row = self.warp * STEP + tirx.floordiv(self.lane, 4) + 8 * half
            whole = self.told[row * 4]
            for other in range(1, 4):
                one = self.told[row * 4 + other]
                whole = tirx.Select(one > whole, one, whole) if largest else whole + one
            store(values, whole, half)


@contextmanager
def _each(count: int) -> Iterator[Tir]:
    """A loop whose body is written out for each number."""
    with T.unroll(count) as number:
        yield number


def _padded(extent: int) -> int:
    return -(-extent // STEP) * STEP


def _aligned(view: View, axis: int, extent: int, vector: int) -> bool:
    """Whether each `vector` elements along the logical `axis` lie side by side, beginning at a multiple."""
    numbers = (view.shape[-1], view.offsets[-1], extent)
    return view.runs_along(axis) and all(number % vector == 0 for number in numbers)


def _call(name: str, *arguments: Tir) -> None:
    T.evaluate(T.call_extern("void", name, *arguments))


def _barrier() -> None:
    T.evaluate(T.tvm_storage_sync("shared"))
