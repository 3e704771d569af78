"""Maxima that start from -inf, through TVM's rules for reductions across threads, which know finite limits only.

A reduction's start is written as the type's finite limit while it is scheduled and lowered, and as infinity again at
the end. In between, limits that the model itself uses (attention masks do) are written as bits.
"""

from __future__ import annotations

import math
import struct

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

_FORMATS = {"float16": ("e", "H"), "float32": ("f", "I"), "float64": ("d", "Q")}


def start_from_limits(func: PrimFunc) -> PrimFunc:
    """`func` with reductions that start from finite limits, where they started from infinity.

    Requires: `func` consists of blocks, not scheduled yet.
    """

    def finite(value: tirx.FloatImm) -> tvm.ir.Expr:
        dtype = str(value.ty.dtype)
        if math.isinf(float(value.value)):
            return (tirx.min_value if float(value.value) < 0 else tirx.max_value)(dtype)
        return value

    def start(block: SBlock) -> SBlock:
        if block.init is None:
            return block
        init = tvm_ffi.structural_map(block.init, [(tirx.FloatImm, finite)])
        return SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, block.body, init, block.alloc_buffers,
            block.match_buffers, block.annotations, block.span,
        )  # fmt: skip

    body = tvm_ffi.structural_map(func.body, [(tirx.FloatImm, _as_bits)])
    return func.with_body(tvm_ffi.structural_map(body, [(SBlock, start)]))


def _is_limit(value: tirx.FloatImm) -> bool:
    dtype = str(value.ty.dtype)
    return dtype in _FORMATS and abs(float(value.value)) == float(tirx.max_value(dtype).value)


def _as_bits(value: tirx.FloatImm) -> tvm.ir.Expr:
    if not _is_limit(value):
        return value
    dtype = str(value.ty.dtype)
    real, whole = _FORMATS[dtype]
    bits = struct.unpack(f"<{whole}", struct.pack(f"<{real}", float(value.value)))[0]
    return tirx.reinterpret(dtype, tirx.const(bits, dtype.replace("float", "uint")))


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.StartFromInfinity")  # type: ignore[untyped-decorator]
def _start_from_infinity(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    def infinite(value: tirx.FloatImm) -> tvm.ir.Expr:
        if not _is_limit(value):
            return value
        return tirx.FloatImm(str(value.ty.dtype), math.copysign(math.inf, float(value.value)))

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.FloatImm, infinite)]))


def start_from_infinity_pass() -> tvm.transform.Pass:
    """Infinity again, in lowered kernels."""
    return _start_from_infinity
