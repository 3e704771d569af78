"""A guard before copies become asynchronous.

TVM's pass for it takes any vector that is copied to shared memory for a run of neighbours, and copies other elements
where they do not lie side by side. Schedules copy those one by one; this pass sees to it.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.tirx import PrimFunc

from edgec.compiler.errors import InternalError


def _vector_index(value: tvm.ir.Expr) -> tirx.Ramp | None:
    """The index of a vector that is loaded, or loaded where a condition holds."""
    if isinstance(value, Call) and str(getattr(value.op, "name", "")) == "tirx.if_then_else":
        value = value.args[1]
    indices = getattr(value, "indices", None)
    last = indices[-1] if indices is not None and len(indices) else None
    return last if isinstance(last, tirx.Ramp) else None


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.CheckCopies")  # type: ignore[untyped-decorator]
def _check_copies(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    def check(store: tirx.BufferStore) -> tirx.BufferStore:
        index = _vector_index(store.value)
        if index is not None and not (isinstance(index.stride, tirx.IntImm) and int(index.stride.value) == 1):
            raise InternalError(f"a copy to shared memory takes elements {index.stride} apart as neighbours")
        return store

    def stage(attribute: tirx.AttrStmt) -> tirx.AttrStmt:
        if attribute.attr_key == "async_scope":
            tvm_ffi.structural_map(attribute.body, [(tirx.BufferStore, check)])
        return attribute

    tvm_ffi.structural_map(func.body, [(tirx.AttrStmt, stage)])
    return func


def check_copies_pass() -> tvm.transform.Pass:
    """Fail where a vector that is no run of neighbours would be copied asynchronously."""
    return _check_copies
