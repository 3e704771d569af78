"""Steps of the lowering pipeline: register tiles stay on the stack, and dot products become one instruction.

TVM turns every allocation of a kernel into a call of its workspace allocator, `local` ones too, and
StorageRewrite drops the annotation that would prevent it. For a register tile that means a call, and a store
of every accumulator to memory that nothing reads, in the middle of the loop nest. Here `local` buffers become
stack slots, which LLVM promotes to registers; large scratch (any other scope) still comes from the workspace.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Op, StringImm
from tvm.tirx import AllocBuffer, AssertStmt, PrimFunc, Stmt, Var

from edgec.compiler.backends.cpu.dot_instructions import FUNCTIONS


def keep_local_on_stack(func: PrimFunc) -> PrimFunc:
    """`func` with a mark on each `local` allocation that LowerTVMBuiltin leaves alone.

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


def native_dots(func: PrimFunc) -> PrimFunc:
    """`func` with the code of the dot instructions that it calls."""
    called: set[str] = set()

    def look(text: StringImm) -> StringImm:
        called.add(str(text.value))
        return text

    tvm_ffi.structural_map(func.body, (StringImm, look))
    body = func.body
    for function, code in FUNCTIONS.items():
        if function in called:
            body = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", StringImm(code), body)
    return func if body is func.body else func.with_body(body)


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.NativeDots")  # type: ignore[untyped-decorator]
def _native_dots(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return native_dots(func)


def native_dots_pass() -> tvm.transform.Pass:
    """`native_dots` for every kernel of a module."""
    return _native_dots


PACKED = "__tvm_ffi_"
_FIELD, _NULL = Op.get("tirx.tvm_struct_get"), Op.get("tirx.isnullptr")


MANY_ARGUMENTS = 8


def short_refusals(func: PrimFunc) -> PrimFunc:
    """`func` with one message for all checks of its arguments: LLVM makes one block of what follows them.

    With a message of its own each check is a call with ten operands: half of the code of a small kernel. The checks
    themselves, and those that a kernel makes of values, stay as they are, but for kernels of many arguments: how many
    there are and that each is a tensor stays checked there, what the tensors are (axes, type, device) does not. Such a
    kernel is called from the plan that was compiled with it, and for a concatenation of forty tensors these
    comparisons took LLVM three times as long as the concatenation.

    Requires: MakePackedAPI ran.
    """
    symbol = str(func.attrs["global_symbol"]).removeprefix(PACKED)
    kind, message = StringImm("ValueError"), [StringImm(f"{symbol}: an argument does not fit")]
    handles: list[Var] = []

    def look(call: Call) -> Call:
        if call.op.same_as(_NULL) and not any(one.same_as(call.args[0]) for one in handles):
            handles.append(call.args[0])
        return call

    tvm_ffi.structural_map(func.body, (Call, look))
    many = len(handles) > MANY_ARGUMENTS

    def shorten(check: AssertStmt) -> Stmt:
        if not any(str(part.value).startswith(f"{symbol}(") for part in check.message_parts):
            return check
        if many and _reads_fields(check.condition):
            return tirx.Evaluate(tirx.IntImm("int32", 0))
        return AssertStmt(check.condition, kind, message)

    return func.with_body(tvm_ffi.structural_map(func.body, (AssertStmt, shorten)))


def _reads_fields(condition: tvm.ir.Expr) -> bool:
    """Whether a check compares fields of a tensor."""
    found: list[Call] = []

    def look(call: Call) -> Call:
        if call.op.same_as(_FIELD):
            found.append(call)
        return call

    tvm_ffi.structural_map(condition, (Call, look))
    return bool(found)


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.ShortRefusals")  # type: ignore[untyped-decorator]
def _short_refusals(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return short_refusals(func)


def short_refusals_pass() -> tvm.transform.Pass:
    """`short_refusals` for every kernel of a module."""
    return _short_refusals
