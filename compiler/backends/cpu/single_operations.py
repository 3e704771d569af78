"""Step of the lowering pipeline: float arithmetic of quantised layers is that of single operations.

LLVM merges a product and a sum into one instruction where the target has it, and the sum then sees a product that was
not rounded. A quantised model promises the same bits on every CPU, so its kernels keep the two apart: a fence around
the product, which costs no instruction.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx import PrimFunc

STORED = ("int8", "uint8", "int16", "uint16")
SINGLE = "edgec.single_operations"  # attribute of the kernels that promise it


def promised(func: PrimFunc, like: PrimFunc | None = None) -> PrimFunc:
    """`func` with the attribute `SINGLE` if it (or the kernel that it implements) reads or writes 8 or 16 bits."""
    kinds = (param.ty.dtype for param in (like or func).params)  # sizes among them are numbers, not pointers
    narrow = any(str(getattr(kind, "dtype", kind)) in STORED for kind in kinds)
    return func.with_attr(SINGLE, True) if narrow else func


def keep_apart(func: PrimFunc) -> PrimFunc:
    """`func` with its float products fenced off from sums, if it carries the attribute `SINGLE`."""
    if func.attrs is None or SINGLE not in func.attrs:
        return func

    def fenced(expr: tvm.ir.Expr) -> tvm.ir.Expr:
        dtype = str(expr.ty.dtype)
        if not isinstance(expr, tirx.Mul) or not dtype.startswith("float"):
            return expr
        return tirx.call_llvm_pure_intrin(dtype, "llvm.arithmetic.fence", expr)

    def total(expr: tirx.Add | tirx.Sub) -> tvm.ir.Expr:
        return type(expr)(fenced(expr.a), fenced(expr.b))

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.Add, total), (tirx.Sub, total)]))


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.KeepApart")  # type: ignore[untyped-decorator]
def _keep_apart(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return keep_apart(func)


def keep_apart_pass() -> tvm.transform.Pass:
    """`keep_apart` for every kernel of a module."""
    return _keep_apart
