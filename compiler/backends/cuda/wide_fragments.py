"""Fragments of fp32 elements, which tensor cores round to tf32: TVM's code generator knows none.

Before it writes the text, such fragments become those of bytes, which no kernel of fp32 operands has; in the text they
are fragments of `float` again, as `device/fragments.cuh` defines them.
"""

from __future__ import annotations

import re

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx import PrimFunc

_SCOPES = ("wmma.matrix_a", "wmma.matrix_b")
WIDE = "edgec.wide_fragments"  # attribute of a function that has some
_STAND_IN = "uint8"
_IN_TEXT = re.compile(r"(fragment<nvcuda::wmma::matrix_[ab], 16, 16, 16, )uchar\b")


def _scope_of(buffer: tvm.ir.Expr) -> str:
    scope = getattr(buffer, "scope", None)
    return str(scope() if callable(scope) else scope or "")


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.HideWideFragments")  # type: ignore[untyped-decorator]
def _hide(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    hidden: dict[tvm.ir.Expr, tvm.ir.Expr] = {}

    def find(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
        buffer = alloc.buffer
        if _scope_of(buffer) in _SCOPES and str(buffer.ty.dtype.dtype) == "float32":
            hidden[buffer] = tirx.decl_buffer(
                buffer.ty.shape, _STAND_IN, str(buffer.name), scope=_scope_of(buffer)
            )
        return alloc

    tvm_ffi.structural_map(func.body, [(tirx.AllocBuffer, find)])
    if not hidden:
        return func
    body = tvm_ffi.structural_map(func.body, [(tirx.Var, lambda var: hidden.get(var, var))])
    return func.with_body(body).with_attr(WIDE, True)


def hide_wide_fragments_pass() -> tvm.transform.Pass:
    """Write fragments of fp32 as such of bytes."""
    return _hide


def with_wide_fragments(text: str) -> str:
    """The text with fragments of `float` again."""
    return _IN_TEXT.sub(r"\1float", text)
