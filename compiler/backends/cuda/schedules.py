"""A sound schedule for any kernel that no template claims: TVM's rules for GPUs, by the kind of its loops."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.infinities import start_from_limits
from edgec.compiler.errors import KernelUnsupported

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

    Raises:
        KernelUnsupported: none of the rules applies.
    """
    if func.attrs is not None and "tirx.is_scheduled" in func.attrs:
        return on_one_thread(func)
    func = start_from_limits(func)
    with target:
        for rule in _RULES:
            try:
                made = rule.apply(func, target, False)
            except (s_tir.schedule.ScheduleError, ValueError):
                continue  # a rule that meets loops it was not written for: the next one is more general
            if made is not None:
                chosen = made[0] if isinstance(made, list) else made
                return chosen.mod["main"].with_attr("tirx.is_scheduled", True)
    raise KernelUnsupported("its loops have no schedule for GPUs")


def on_one_thread(func: PrimFunc) -> PrimFunc:
    """A kernel that was written as loops in a fixed order, run by a single thread: right, and slow.

    Its buffers move in front of the launch, where they become scratch memory of the device.
    """
    allocated: list[tirx.AllocBuffer] = []

    def hoist(alloc: tirx.AllocBuffer) -> tirx.Stmt:
        allocated.append(alloc)
        return tirx.Evaluate(tirx.IntImm("int32", 0))

    body = tvm_ffi.structural_map(func.body, [(tirx.AllocBuffer, hoist)])
    for tag in ("threadIdx.x", "blockIdx.x"):
        var = tirx.IterVar(tvm.ir.Range(0, 1), tirx.Var(tag.replace(".", "_"), "int32"), 1, tag)
        body = tirx.AttrStmt(var, "thread_extent", tirx.IntImm("int32", 1), body)
    return func.with_body(tirx.SeqStmt([*allocated, body]) if allocated else body)
