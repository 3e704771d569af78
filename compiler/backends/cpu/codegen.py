"""Steps of the lowering pipeline: register tiles stay on the stack, and products of bfloat16 become one instruction.

TVM turns every allocation of a kernel into a call of its workspace allocator, ``local`` ones too, and
StorageRewrite drops the annotation that would prevent it. For a register tile that means a call, and a store
of every accumulator to memory that nothing reads, in the middle of the loop nest. Here ``local`` buffers become
stack slots, which LLVM promotes to registers; large scratch (any other scope) still comes from the workspace.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import StringImm
from tvm.tirx import AllocBuffer, PrimFunc


def keep_local_on_stack(func: PrimFunc) -> PrimFunc:
    """`func` with a mark on each ``local`` allocation that LowerTVMBuiltin leaves alone.

    Requires: StorageRewrite ran.
    """

    def mark(alloc: AllocBuffer) -> AllocBuffer:
        if alloc.buffer.scope() != "local":
            return alloc
        return AllocBuffer(alloc.buffer, annotations={"disable_lower_builtin": tirx.IntImm("bool", 1)})

    return func.with_body(tvm_ffi.structural_map(func.body, [(AllocBuffer, mark)]))


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.KeepLocalOnStack")  # type: ignore[untyped-decorator]
def _keep_local_on_stack(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return keep_local_on_stack(func)


def keep_local_on_stack_pass() -> tvm.transform.Pass:
    """`keep_local_on_stack` for every kernel of a module."""
    return _keep_local_on_stack


BF16_DOT = "edgec_bf16_dot"  # what templates call: 16 sums, 16 pairs of bfloat16 as int32, and again
# TVM's own types of bfloat16 do not reach LLVM (its passes make integers of them), so the call is a function of LLVM's.
_BF16_DOT_CODE = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @edgec_bf16_dot(<16 x float> %s, <16 x i32> %a, <16 x i32> %b) alwaysinline nounwind readnone {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %s, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""


def native_bf16_dot(func: PrimFunc) -> PrimFunc:
    """`func` with the code of `BF16_DOT` (the instruction ``vdpbf16ps``) at hand, if it calls it."""
    found = False

    def look(text: StringImm) -> StringImm:
        nonlocal found
        found = found or text.value == BF16_DOT
        return text

    tvm_ffi.structural_map(func.body, (StringImm, look))
    if not found:
        return func
    imported = StringImm(_BF16_DOT_CODE)
    return func.with_body(tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", imported, func.body))


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.NativeBf16Dot")  # type: ignore[untyped-decorator]
def _native_bf16_dot(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return native_bf16_dot(func)


def native_bf16_dot_pass() -> tvm.transform.Pass:
    """`native_bf16_dot` for every kernel of a module."""
    return _native_bf16_dot
