"""Reductions to the largest or smallest element start from infinity.

TVM's start from the largest finite number, so that the largest of nothing but -inf would come out finite.

Requires: kernels that are not scheduled yet, their reductions in blocks with an initialisation.
Ensures: an initialisation with a floating-point type's largest finite number, of either sign, is with infinity.
"""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

from edgec.compiler.graph.rewrite import Expr


def start_from_infinity(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    changed = {gv: _started(f) for gv, f in mod.functions.items() if isinstance(f, PrimFunc)}
    for gv, function in changed.items():
        if not function.same_as(mod[gv]):
            mod.update_func(gv, function)
    return mod


def _started(func: PrimFunc) -> PrimFunc:
    def start(block: SBlock) -> SBlock:
        if block.init is None:
            return block
        init = tvm_ffi.structural_map(block.init, [(tirx.FloatImm, _infinite)])
        if init.same_as(block.init):
            return block
        return SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, block.body, init, block.alloc_buffers,
            block.match_buffers, block.annotations, block.span,
        )  # fmt: skip

    body = tvm_ffi.structural_map(func.body, [(SBlock, start)])
    return func if body.same_as(func.body) else func.with_body(body)


def _infinite(value: tirx.FloatImm) -> Expr:
    dtype, number = str(value.ty.dtype), float(value.value)
    for limit, infinity in ((tirx.min_value(dtype), -math.inf), (tirx.max_value(dtype), math.inf)):
        if number == float(limit.value):
            return tirx.FloatImm(dtype, infinity)
    return value
