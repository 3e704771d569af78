"""Attention by ordinary arithmetic: in fp32, and where tensor cores have other fragments (Volta)."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.compiler.backends.cuda.templates.attention_walk import ELEMENTS, AttentionWalk, barrier
from edgec.compiler.backends.cuda.templates.tiles import STEP
from edgec.compiler.kernels.loops import store
from edgec.compiler.kernels.tir import Tir, f32, i32


class Plain(AttentionWalk):
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
        barrier()
        for view, source, target, width, stride, inner in (
            (spec.key, self.key, self.k, self.inner, self.key_stride, spec.inner),
            (spec.value, self.value, self.v, self.cols, self.value_stride, spec.cols),
        ):
            shape, limits = (keys, width), (spec.keys, inner)
            self.copy(view, source, target, i32(0), shape, stride, number * keys, limits, None)
        barrier()

    def multiply_keys(self, number: Tir) -> None:
        """A step for each element of queries and keys."""
        with T.unroll(self.groups * ELEMENTS) as i:
            store(self.scores, f32(0), i)
        with T.serial(0, self.spec.inner) as k:
            for group in range(self.groups):
                for element in range(ELEMENTS):
                    row, column = self.element(element)
                    query = self.q[(self.warp * STEP + row) * self.key_stride + k]
                    key = self.k[(column + group * STEP) * self.key_stride + k]
                    self._add(self.scores, group * ELEMENTS + element, query, key)

    def multiply_values(self, number: Tir) -> None:
        """A step for each key; a warp reads the weights that it wrote."""
        for group in range(self.groups):
            for element in range(ELEMENTS):
                row, column = self.element(element)
                weight = self.scores[group * ELEMENTS + element]
                rounded = (
                    weight if self.types.operands == "float32" else tirx.Cast(self.types.operands, weight)
                )
                place = (self.warp * STEP + row) * self.weight_stride + group * STEP + column
                store(self.weights, rounded, place)
        barrier()
        with T.serial(0, self.tile.keys) as k:
            for part in range(self.parts):
                for element in range(ELEMENTS):
                    row, column = self.element(element)
                    weight = self.weights[(self.warp * STEP + row) * self.weight_stride + k]
                    value = self.v[k * self.value_stride + part * STEP + column]
                    self._add(self.sums, part * ELEMENTS + element, weight, value)

    def _add(self, sums: Tir, at: int, a: Tir, b: Tir) -> None:
        if self.types.operands != "float32":
            a, b = tirx.Cast("float32", a), tirx.Cast("float32", b)
        store(sums, sums[at] + a * b, at)

    def over_rows(self, values: Tir, *, largest: bool) -> None:
        """Through shared memory."""
        barrier()
        for half in (0, 1):
            row = self.warp * STEP + tirx.floordiv(self.lane, 4) + 8 * half
            store(self.told, values[half], row * 4 + tirx.floormod(self.lane, 4))
        barrier()
        for half in (0, 1):
            row = self.warp * STEP + tirx.floordiv(self.lane, 4) + 8 * half
            whole = self.told[row * 4]
            for other in range(1, 4):
                one = self.told[row * 4 + other]
                whole = tirx.Select(one > whole, one, whole) if largest else whole + one
            store(values, whole, half)
