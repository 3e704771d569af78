"""Products and convolutions on tensor cores: steps of a warp, operands staged in shared memory while others are used.

A convolution is the product of its windows (gathered while they are staged) and its filters. Operands are fp16,
bfloat16 or int8, sums fp32 or int32; what follows the product is applied when the sums are written. A deep and narrow
product is split along its sum, and a second launch adds the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.dlight.analysis import get_root_block
from tvm.s_tir.dlight.gpu.matmul import (
    auto_inline_consumer_chain,
    auto_inline_producers,
    get_index_map,
    get_reduction_blocks,
)
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.templates.tensor_steps import tensor_steps
from edgec.compiler.backends.cuda.templates.tiles import STEP, WARP, Product, Tile
from edgec.compiler.operands.operands import numpy_dtype

_SUMS = {
    ("float16", "float16"): "float32",
    ("bfloat16", "bfloat16"): "float32",
    ("int8", "int8"): "int32",
    ("uint8", "int8"): "int32",
}
_STAGED = "shared.dyn"  # of dynamic size, as the pipeline of copies needs it
_VECTOR = 4  # sums that a thread writes at once
_ADDING_THREADS = 256
Loops = Any  # blocks and loops of TVM's schedules, which have no static types


class TensorProduct:
    """A kernel whose only reduction is a product, or can be written as one.

    Attributes:
        size: of the product.
        operands: dtypes of both operands.
        sums: dtype of the sums.
    """

    def __init__(self, func: PrimFunc) -> None:
        """Look at a kernel that is not scheduled yet.

        Raises:
            ValueError: it is no product.
        """
        self._func = func
        sch = Schedule(func)
        found = _product_block(sch)
        if found is None:
            raise ValueError("not a product")
        first, second = _operands(sch.get(found))
        normalised = _normalise(sch)
        if normalised is None:
            raise ValueError("not a product")
        block = sch.get(normalised)
        a, b = (str(region.source.ty.dtype.dtype) for region in block.reads)
        self.operands = (a, b)
        self.sums = str(block.writes[0].source.ty.dtype.dtype)
        batch, rows, columns, depth = (int(var.dom.extent) for var in block.iter_vars)
        self.runs = (first.by_depth, second.by_depth)
        # Columns that lie side by side are staged so: the hardware transposes elements of two bytes as it loads them.
        self.by_rows = numpy_dtype(b).itemsize == 2 and second.by_columns
        self.size = Product(batch, rows, columns, depth, numpy_dtype(a).itemsize)

    @property
    def for_tensor_cores(self) -> bool:
        """Whether tensor cores multiply such operands, and add such sums."""
        return _SUMS.get(self.operands) == self.sums

    @property
    def in_fp32(self) -> bool:
        """Whether tensor cores multiply such operands once they are rounded to tf32."""
        return (*self.operands, self.sums) == ("float32",) * 3

    def emit(self, tile: Tile, *, tensorised: bool = True) -> PrimFunc:
        """The kernel in tiles.

        Args:
            tile: how it is cut.
            tensorised: use tensor cores. Without, each thread of a warp computes the warp's whole step in memory of its
                own, which means the same and runs anywhere.
        """
        sch = Schedule(self._func)
        block = _normalise(sch)
        if block is None:
            raise ValueError("not a product")
        if self.by_rows:
            sch.transform_layout(block, ("read", 1), lambda n, j, k: (n, k, j))
        runs = (self.runs[0], self.runs[1] or self.by_rows)
        emitter = _Emitter(
            sch, tile, self.operands if tensorised else None, self.sums, runs, by_rows=self.by_rows
        )
        emitter.schedule(block)
        made: PrimFunc = sch.mod["main"]
        return made.with_attr("tirx.is_scheduled", True)


def _product_block(sch: Schedule) -> Loops | None:
    """The only reduction of a kernel, of two operands; None where there is none such."""
    blocks = get_reduction_blocks(sch, sch.get_child_blocks(get_root_block(sch)))
    if not blocks or len(blocks) != 1:
        return None
    block = sch.get(blocks[0])
    return blocks[0] if len(block.reads) == 2 and get_index_map(block) is not None else None


def _normalise(sch: Schedule) -> Loops | None:
    """Write the only reduction as `C[b, i, j] += A[b, i, k] * B[b, j, k]`; None where it is none such."""
    block = _product_block(sch)
    if block is None:
        return None
    views = [
        sch.reindex(block, ("read", 0)),
        sch.reindex(block, ("read", 1)),
        sch.reindex(block, ("write", 0)),
    ]
    maps = get_index_map(sch.get(block))
    if maps is None:
        return None
    whole, a, b, c = maps
    sch.transform_layout(views[0], ("write", 0), a)
    sch.transform_layout(views[1], ("write", 0), b)
    sch.transform_layout(views[2], ("read", 0), c)
    sch.transform_block_layout(block, whole)
    return block


@dataclass(frozen=True)
class _Operand:
    """How an operand lies in memory: which of the product's axes its innermost index follows."""

    by_depth: bool
    by_columns: bool


def _operands(block: Loops) -> tuple[_Operand, _Operand]:
    # The innermost axis of a window of one column moves nowhere: neighbours in depth are channels then.
    reduced = [
        var.var
        for var in block.iter_vars
        if var.iter_type == tirx.IterVar.CommReduce and int(var.dom.extent) > 1
    ]
    spatial = [var.var for var in block.iter_vars if var.iter_type == tirx.IterVar.DataPar]

    def look(region: tirx.BufferRegion) -> _Operand:
        index = region.region[-1].min
        used = tirx.analysis.undefined_vars(index) if not isinstance(index, tirx.Var) else [index]
        return _Operand(
            by_depth=any(one.same_as(var) for one in used for var in reduced),
            by_columns=any(index.same_as(var) for var in spatial),
        )

    return look(block.reads[0]), look(block.reads[1])


class _Emitter:
    """Schedules one product."""

    def __init__(
        self,
        sch: Schedule,
        tile: Tile,
        operands: tuple[str, str] | None,
        sums: str,
        runs: tuple[bool, bool],
        *,
        by_rows: bool,
    ) -> None:
        self._sch = sch
        self._tile = tile
        self._operands = operands
        self._staged = _STAGED if operands else "shared"
        fragments = ("wmma.matrix_a", "wmma.matrix_b", "wmma.accumulator")
        self._scopes = fragments if operands else ("local",) * 3
        self._sums = sums
        self._by_rows = by_rows
        self._runs = runs  # whether an operand's elements lie side by side as they are staged

    def schedule(self, block: Loops) -> None:
        """From `C[b, i, j] += A[b, i, k] * B[b, j, k]` to launches."""
        sch, tile = self._sch, self._tile
        sch.pad_einsum(block, [1, tile.rows, tile.columns, tile.round_depth * tile.split])
        added = None
        if tile.split > 1:
            added = block
            _, _, _, k = sch.get_loops(block)
            part, _ = sch.split(k, factors=[tile.split, None])
            block = sch.rfactor(part, 0)
        *outer, i, j, k = self._ordered(block)
        i, inner_i = sch.split(i, factors=[None, STEP])
        j, inner_j = sch.split(j, factors=[None, STEP])
        k, inner_k = sch.split(k, factors=[None, STEP])
        sch.reorder(i, j, k, inner_i, inner_j, inner_k)
        steps = sch.blockize(inner_i)
        i0, i1, i2 = sch.split(i, factors=[None, tile.warps[0], tile.steps[0]])
        j0, j1, j2 = sch.split(j, factors=[None, tile.warps[1], tile.steps[1]])
        k0, k1 = sch.split(k, factors=[None, tile.depth])
        sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
        warp = sch.fuse(i1, j1)
        sch.bind(sch.fuse(*outer), "blockIdx.z")
        sch.bind(i0, "blockIdx.x")
        sch.bind(j0, "blockIdx.y")
        sch.bind(warp, "threadIdx.y")
        for number in (0, 1):
            self._stage(steps, number, k0)
        fragments = []
        for number in (0, 1):
            fragment = sch.cache_read(steps, number, self._scopes[number])
            sch.compute_at(fragment, k1)
            fragments.append(fragment)
        written = sch.cache_write(steps, 0, "shared")
        sch.storage_align(written, 0, -2, 16, _VECTOR)
        sums = sch.cache_write(steps, 0, self._scopes[2])
        sch.reverse_compute_at(sums, warp)
        sch.reverse_compute_at(written, warp)
        inner_sums = self._in_steps(sums)
        start = sch.decompose_reduction(steps, k0)
        if self._operands:
            self._pipeline(k0)
            self._tensorise(start, fragments, inner_sums, block)
        if added is None:
            auto_inline_consumer_chain(sch, written)
        fused = sch.fuse(*sch.get_loops(written)[-2:])
        _, lanes, vector = sch.split(fused, factors=[None, WARP, _VECTOR])
        sch.bind(lanes, "threadIdx.x")
        sch.vectorize(vector)
        if added is not None:
            self._add(added)

    def _ordered(self, block: Loops) -> list[Loops]:
        """The loops of the product: of the parts of the sum, where it is split, batch, rows, columns, depth."""
        loops = list(self._sch.get_loops(block))
        if self._tile.split == 1:
            return loops
        batch, i, j, part, k = loops
        self._sch.reorder(part, batch, i, j, k)
        return [part, batch, i, j, k]

    def _stage(self, steps: Loops, number: int, at: Loops) -> None:
        """Copy an operand's part to shared memory, all threads of the block together."""
        sch, tile = self._sch, self._tile
        staged = sch.cache_read(steps, number, self._staged)
        sch.compute_at(staged, at)
        fused = sch.fuse(*sch.get_loops(staged)[-2:])
        warps = tile.warps[0] * tile.warps[1]
        copied = tile.copied if self._runs[number] else 1
        _, warp, lanes, vector = sch.split(fused, factors=[None, warps, WARP, copied])
        sch.bind(lanes, "threadIdx.x")
        sch.bind(warp, "threadIdx.y")
        sch.vectorize(vector)
        sch.storage_align(staged, 0, axis=-2, factor=2 * tile.padding, offset=tile.padding)
        auto_inline_producers(sch, staged)

    def _pipeline(self, rounds: Loops) -> None:
        """Copies of the rounds ahead go on while a round is computed."""
        sch = self._sch
        sch.annotate(rounds, "software_pipeline_stage", [0, 0, self._tile.stages - 1])
        sch.annotate(rounds, "software_pipeline_order", [0, 1, 2])
        sch.annotate(rounds, "software_pipeline_async_stages", [0])

    def _in_steps(self, block: Loops) -> Loops:
        """Cut a copy of a warp's part into steps; the loop over a step's rows."""
        sch = self._sch
        rows, columns = sch.get_loops(block)[-2:]
        rows, inner_rows = sch.split(rows, factors=[None, STEP])
        columns, inner_columns = sch.split(columns, factors=[None, STEP])
        sch.reorder(rows, columns, inner_rows, inner_columns)
        return inner_rows

    def _tensorise(self, start: Loops, fragments: list[Loops], sums: Loops, block: Loops) -> None:
        sch = self._sch
        assert self._operands is not None
        names = tensor_steps(*self._operands, self._sums, self._staged, "shared", rows=self._by_rows)
        for fragment, job in zip(fragments, ("load_a", "load_b"), strict=True):
            sch.tensorize(self._in_steps(fragment), names[job])
        sch.tensorize(sch.get_loops(sch.get_child_blocks(start)[0])[-2], names["init"])
        sch.tensorize(sums, names["store"])
        sch.tensorize(sch.get_loops(block)[-3], names["compute"])

    def _add(self, block: Loops) -> None:
        """The second launch: each thread adds the parts of one element, and does what follows the product."""
        sch = self._sch
        written = sch.cache_write(block, 0, "local")
        auto_inline_consumer_chain(sch, written)
        fused = sch.fuse(*sch.get_loops(written))
        groups, lanes = sch.split(fused, factors=[None, _ADDING_THREADS])
        sch.bind(groups, "blockIdx.x")
        sch.bind(lanes, "threadIdx.x")
        sch.compute_at(block, lanes)


def product_of(func: PrimFunc) -> TensorProduct | None:
    """The product that a kernel computes, not scheduled yet; None where it is none."""
    try:
        return TensorProduct(func)
    except (s_tir.schedule.ScheduleError, tvm.error.InternalError, ValueError):
        return None  # loops that cannot be normalised: another rule takes them
