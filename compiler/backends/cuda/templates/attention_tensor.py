"""Attention on tensor cores, by the steps of `device/attention.cuh`."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.compiler.backends.cuda.templates.attention_walk import ELEMENTS, AttentionWalk, barrier, each
from edgec.compiler.backends.cuda.templates.tiles import STEP
from edgec.compiler.graph.attention_spec import View
from edgec.compiler.kernels.loops import store
from edgec.compiler.kernels.tir import Tir, f32, i32

NAMES = {"float16": "f16", "bfloat16": "bf16"}  # of operands


class OnTensorCores(AttentionWalk):
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
        first, end = self.visited
        if self.types.band is None:
            self._round(first, i32(0))
        else:
            with T.If(first < end), T.Then():
                self._round(first, tirx.floormod(first, 2))
        _call("edgec_close_group")
        _call("edgec_await_groups<0>")
        barrier()
        for step in range(self.inner // STEP):
            place = T.address_of(self.q[self.warp * STEP * self.key_stride + step * STEP])
            _call("edgec_take_queries", T.address_of(self.kept[4 * step]), place, self.key_stride)

    def stage(self, number: Tir) -> None:
        """Wait for this round's copies, and start the next round's."""
        _call("edgec_await_groups<0>")
        barrier()
        if self.rounds > 1:
            with T.If(number + 1 < self.visited[1]), T.Then():
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
            NAMES[self.types.operands],
            tirx.floormod(number, 2) * (self.tile.keys * self.key_stride),
        )
        with T.unroll(self.groups * ELEMENTS) as i:
            store(self.scores, f32(0), i)
        for step in range(self.inner // STEP):
            with each(self.groups) as group:
                place = T.address_of(self.k[begin + group * (STEP * self.key_stride) + step * STEP])
                sums = T.address_of(self.scores[group * ELEMENTS])
                _call(f"edgec_scores_{name}", sums, T.address_of(self.kept[4 * step]), place, self.key_stride)

    def multiply_values(self, number: Tir) -> None:
        """Weights are rounded in the registers where they lie."""
        name, begin = (
            NAMES[self.types.operands],
            tirx.floormod(number, 2) * (self.tile.keys * self.value_stride),
        )
        weights = T.address_of(self.weights[0])
        with each(self.groups) as group:
            _call(f"edgec_pack_{name}", weights, T.address_of(self.scores[group * ELEMENTS]))
            for part in range(self.parts):
                place = T.address_of(self.v[begin + group * (STEP * self.value_stride) + part * STEP])
                sums = T.address_of(self.sums[part * ELEMENTS])
                _call(f"edgec_mix_{name}", sums, weights, place, self.value_stride)

    def over_rows(self, values: Tir, *, largest: bool) -> None:
        """By exchange between lanes."""
        name = "edgec_quad_max" if largest else "edgec_quad_sum"
        for half in (0, 1):
            store(values, T.call_extern("float32", name, values[half]), half)


def _aligned(view: View, axis: int, extent: int, vector: int) -> bool:
    """Whether each `vector` elements along the logical `axis` lie side by side, beginning at a multiple."""
    numbers = (view.shape[-1], view.offsets[-1], extent)
    return view.runs_along(axis) and all(number % vector == 0 for number in numbers)


def _call(name: str, *arguments: Tir) -> None:
    T.evaluate(T.call_extern("void", name, *arguments))
