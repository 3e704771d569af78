"""A sound schedule for any kernel that no template claims: TVM's rules for GPUs, by the kind of its loops."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import SBlockRealize, dlight
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.infinities import start_from_limits
from edgec.compiler.backends.cuda.lowering import lower_kernel
from edgec.compiler.errors import KernelUnsupported, opening

_MOST_STEPS = 1 << 20  # of a single thread, some milliseconds: what takes more is faster on the host
# In order: the first that applies decides. The last takes everything that consists of blocks.
_RULES = (
    dlight.gpu.Matmul(),
    dlight.gpu.GEMV(),
    dlight.gpu.Reduction(),
    dlight.gpu.GeneralReduction(),
    dlight.gpu.Fallback(),
)


def schedule_generic(func: PrimFunc, target: tvm.target.Target) -> PrimFunc:
    """Schedule a kernel for blocks of threads.

    Args:
        func: consists of blocks, of loops that were written in a fixed order, or of launches already.
        target: what it is lowered for, with a host.

    Raises:
        KernelUnsupported: none of the rules makes a kernel that can be lowered.
    """
    if func.attrs is not None and "tirx.is_scheduled" in func.attrs:
        if _has_threads(func):
            if (reason := why_not(func, target)) is not None:
                raise KernelUnsupported(reason)
            return func
        if (steps := steps_of(func.body)) > _MOST_STEPS:
            raise KernelUnsupported(f"its loops have a fixed order: {steps:.0e} steps of a single thread")
        made = on_one_thread(func)
        if (reason := why_not(made, target)) is not None:
            raise KernelUnsupported(reason)
        return made
    func = start_from_limits(func)
    reason = "its loops have no schedule for GPUs"
    for rule in _RULES:
        made = _by_rule(rule, func, target)
        if isinstance(made, PrimFunc):
            return made
        reason = made or reason
    raise KernelUnsupported(reason)


def _has_threads(func: PrimFunc) -> bool:
    found: list[tirx.AttrStmt] = []

    def look(statement: tirx.AttrStmt) -> None:
        if statement.attr_key == "thread_extent":
            found.append(statement)

    tvm_ffi.structural_walk(func.body, (tirx.AttrStmt, look))
    return bool(found)


def _by_rule(rule: dlight.ScheduleRule, func: PrimFunc, target: tvm.target.Target) -> PrimFunc | str:
    """The kernel that a rule makes, or why it makes none (nothing where it does not apply)."""
    try:
        with target:
            made = rule.apply(func, target, False)
    except Exception as error:  # noqa: BLE001 - of many types: a rule meets loops it was not written for; the next is more general
        return opening(error)
    if made is None:
        return ""
    chosen = made[0] if isinstance(made, list) else made
    scheduled: PrimFunc = chosen.mod["main"].with_attr("tirx.is_scheduled", True)
    return why_not(scheduled, target) or scheduled


def why_not(func: PrimFunc, target: tvm.target.Target) -> str | None:
    """The reason why a scheduled kernel cannot be lowered to the device's text; None where it can."""
    try:
        lower_kernel("probe", func, target)
    except Exception as error:  # noqa: BLE001 - TVM's passes raise what they like about a schedule that does not suit them
        return opening(error)
    return None


def on_one_thread(func: PrimFunc) -> PrimFunc:
    """A kernel that was written as loops in a fixed order, run by a single thread: right, and slow.

    Its buffers move in front of the launch, where they become scratch memory of the device.
    """
    allocated: list[tirx.AllocBuffer] = []

    def hoist(alloc: tirx.AllocBuffer) -> tirx.Stmt:
        allocated.append(alloc)
        return tirx.Evaluate(tirx.IntImm("int32", 0))

    def in_order(loop: tirx.For) -> tirx.For:
        if loop.kind not in (tirx.ForKind.VECTORIZED, tirx.ForKind.PARALLEL):
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    body = tvm_ffi.structural_map(func.body, [(tirx.AllocBuffer, hoist), (tirx.For, in_order)])
    for tag in ("threadIdx.x", "blockIdx.x"):
        var = tirx.IterVar(tvm.ir.Range(0, 1), tirx.Var(tag.replace(".", "_"), "int32"), 1, tag)
        body = tirx.AttrStmt(var, "thread_extent", tirx.IntImm("int32", 1), body)
    return func.with_body(tirx.SeqStmt([*allocated, body]) if allocated else body)


def steps_of(statement: tirx.Stmt) -> int:
    """How many stores a statement makes at most; loops of unknown length count once."""
    if isinstance(statement, tirx.SeqStmt):
        return sum(map(steps_of, statement.seq))
    if isinstance(statement, tirx.For):
        times = int(statement.extent.value) if isinstance(statement.extent, tirx.IntImm) else 1
        return times * steps_of(statement.body)
    if isinstance(statement, tirx.IfThenElse):
        return max(steps_of(one) for one in (statement.then_case, statement.else_case) if one is not None)
    if isinstance(statement, SBlockRealize):
        return steps_of(statement.block.body)
    body = getattr(statement, "body", None)
    return steps_of(body) if isinstance(body, tirx.Stmt) else 1
