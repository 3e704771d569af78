"""The epilogue of a fused kernel: what it does with its anchor's result, extracted as an expression.

A template computes the anchor in registers, and `Epilogue.store` applies the rest of the kernel to it and writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.s_tir import SBlock
from tvm.s_tir.schedule import Schedule
from tvm.tirx import Buffer, BufferStore, PrimFunc, Stmt, Var

from edgec.compiler.backends.cpu.templates.generic import inline_elementwise, leaf_blocks
from edgec.compiler.backends.cpu.templates.loop_nests import Expr, Index, index
from edgec.compiler.backends.cpu.templates.vector_math import with_vector_math
from edgec.compiler.graph.anchors import ANCHOR


@dataclass(frozen=True)
class Epilogue:
    """The parts of a fused kernel that a template needs.

    Attributes:
        params: of the function, in order; the last one is the output.
        inputs: the anchor's operands, data first.
        output: what the kernel writes.
        value: the output's element, reading the anchor's result through `anchor`.
        axes: the variables of an element's position, as `value` uses them.
        anchor: the placeholder buffer of the anchor's result.
    """

    params: tuple[Buffer, ...]
    inputs: tuple[Buffer, ...]
    output: Buffer
    value: Expr
    axes: tuple[Var, ...]
    anchor: Buffer

    def store(self, position: Sequence[Index], result: Expr) -> Stmt:
        """Write the element at `position`, `result` being the anchor's value there."""
        return BufferStore(self.output, self.element(position, result), [index(at) for at in position])

    def element(self, position: Sequence[Index], result: Expr) -> Expr:
        """The output's element at `position`, `result` being the anchor's value there."""
        place = {var: index(at) for var, at in zip(self.axes, position, strict=True)}

        def load(expr: TensorLoad) -> Expr:
            return result if expr.source.same_as(self.anchor) else expr

        def variable(var: Var) -> Expr:
            return place.get(var, var)

        return tvm_ffi.structural_map(self.value, [(TensorLoad, load), (tvm.ir.Var, variable)])

    def bias(self) -> tuple[Epilogue, Callable[[Sequence[Index]], Expr]] | None:
        """The epilogue without a sum that it begins with, and what it adds, by the element's position.

        None where it adds nothing to the anchor's result, or what differs between rows and columns: a sum can start
        with values that stay in registers for a whole tile.
        """
        channels = (self.axes[1], self.axes[-1])
        others = [axis for axis in self.axes if not any(axis.same_as(c) for c in channels)]
        added: list[Expr] = []
        uses = 0

        def is_anchor(expr: Expr) -> bool:
            return isinstance(expr, TensorLoad) and expr.source.same_as(self.anchor)

        def count(load: TensorLoad) -> TensorLoad:
            nonlocal uses
            uses += is_anchor(load)
            return load

        def sum_of(expr: tirx.Add) -> Expr:
            anchor, other = (expr.a, expr.b) if is_anchor(expr.a) else (expr.b, expr.a)
            if is_anchor(anchor) and isinstance(other, TensorLoad) and not added:
                used = [axis for i in other.indices for axis in others if i.same_as(axis)]
                plain = all(isinstance(i, tirx.IntImm | Var) for i in other.indices)
                one = [int(size) for size in self.output.ty.shape]
                if plain and all(one[[*self.axes].index(axis)] == 1 for axis in used):
                    added.append(other)
                    return anchor
            return expr

        tvm_ffi.structural_map(self.value, (TensorLoad, count))
        value = tvm_ffi.structural_map(self.value, (tirx.Add, sum_of))
        if uses != 1 or not added:
            return None

        def at(position: Sequence[Index]) -> Expr:
            place = {var: index(i) for var, i in zip(self.axes, position, strict=True)}
            return tvm_ffi.structural_map(added[0], (Var, lambda var: place.get(var, var)))

        return replace(self, value=value), at

    def build(self, body: Stmt) -> PrimFunc:
        """The finished kernel."""
        func = with_vector_math(PrimFunc(list(self.params), body))
        return func.with_attrs({"tirx.noalias": True, "s_tir": True})


@dataclass(frozen=True)
class PlacedEpilogue(Epilogue):
    """An epilogue of an anchor that is computed in parts.

    Attributes:
        position: the position in the whole result of a position in the part.
        place: where that element is written, by its position in the whole result.
    """

    position: Callable[[Sequence[Index]], Sequence[Index]]
    place: Callable[[Sequence[Index]], Sequence[Index]]

    @staticmethod
    def of(
        epilogue: Epilogue,
        output: Buffer,
        position: Callable[[Sequence[Index]], Sequence[Index]] = lambda at: at,
        place: Callable[[Sequence[Index]], Sequence[Index]] = lambda at: at,
    ) -> PlacedEpilogue:
        """`epilogue`, which writes into `output`."""
        fields = {field.name: getattr(epilogue, field.name) for field in dataclasses.fields(Epilogue)}
        return PlacedEpilogue(**{**fields, "output": output}, position=position, place=place)

    def store(self, position: Sequence[Index], result: Expr) -> Stmt:
        """Write the element at a position in the part, `result` being the anchor's value there."""
        at = self.position(position)
        return BufferStore(self.output, self.element(at, result), [index(i) for i in self.place(at)])


def split_epilogue(func: PrimFunc) -> Epilogue | None:
    """The anchor's operands and the epilogue of a fused kernel; None unless it maps elements in place."""
    parts = _split(func)
    return parts[0] if parts is not None and len(parts) == 1 else None


def split_epilogues(func: PrimFunc) -> tuple[Epilogue, Epilogue] | None:
    """The same of a kernel of two anchors, the second of which reads what the first one's epilogue makes."""
    parts = _split(func)
    if parts is None or len(parts) != 2 or not parts[1].inputs[0].same_as(parts[0].output):
        return None
    return parts[0], parts[1]


def _split(func: PrimFunc) -> list[Epilogue] | None:
    """Each anchor with its epilogue, in order; None unless each maps elements in place."""
    sch = Schedule(tvm.IRModule({"main": func}), debug_mask="none", error_render_level="none")
    inline_elementwise(sch, anchors=False)
    blocks = [sch.get(block) for block in leaf_blocks(sch)]
    starts = [i for i, block in enumerate(blocks) if ANCHOR in dict(block.annotations)]
    if not starts or starts[0] != 0:
        return None
    params, found = tuple(func.params), list[Epilogue]()
    for start, end in pairwise([*starts, len(blocks)]):
        epilogue = _epilogue(params, blocks[start:end])
        if epilogue is None:
            return None
        found.append(epilogue)
    return found


def _epilogue(params: tuple[Buffer, ...], blocks: Sequence[SBlock]) -> Epilogue | None:
    """What an anchor, and the map behind it if there is one, compute."""
    if len(blocks) > 2:
        return None
    anchor = blocks[0]
    result = anchor.body.buffer
    inputs = _operands(anchor, result)
    if len(blocks) == 1:
        axes = tuple(iv.var for iv in anchor.iter_vars if iv.iter_type == 0)
        return Epilogue(params, inputs, result, tirx.BufferLoad(result, list(axes)), axes, result)
    last = blocks[1]
    axes = tuple(iv.var for iv in last.iter_vars)
    store = last.body
    if not isinstance(store, BufferStore) or not _in_place(store, axes, result):
        return None
    return Epilogue(params, inputs, store.buffer, store.value, axes, result)


def _operands(anchor: SBlock, result: Buffer) -> tuple[Buffer, ...]:
    found: list[Buffer] = []

    def record(load: TensorLoad) -> TensorLoad:
        if not load.source.same_as(result) and not any(load.source.same_as(b) for b in found):
            found.append(load.source)
        return load

    tvm_ffi.structural_map(anchor.body.value, (TensorLoad, record))
    return tuple(found)


def _in_place(store: BufferStore, axes: tuple[Var, ...], result: Buffer) -> bool:
    """Whether the store writes, and reads the anchor's result, at the block's own position."""
    unit = [isinstance(dim, tirx.IntImm) and int(dim) == 1 for dim in result.ty.shape]
    same = True

    def at_position(indices: Sequence[Expr]) -> bool:
        return all(
            i.same_as(a) or (one and isinstance(i, tirx.IntImm))
            for i, a, one in zip(indices, axes, unit, strict=True)
        )

    def check(load: TensorLoad) -> TensorLoad:
        nonlocal same
        if load.source.same_as(result):
            same = same and len(load.indices) == len(axes) and at_position(load.indices)
        return load

    tvm_ffi.structural_map(store.value, (TensorLoad, check))
    return same and len(store.indices) == len(axes) and at_position(store.indices)
