"""The TIR passes from a kernel to LLVM's input, without those that cost time and change nothing here.

Templates write final loops, and LLVM removes common subexpressions and dead code itself: TVM's own passes for that
would take half of the compile time of an unrolled tile.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import s_tir, tirx
from tvm.tirx import compilation_pipeline

from edgec.compiler.backends.cpu.codegen import (
    keep_local_on_stack_pass,
    native_dots_pass,
    short_refusals_pass,
)
from edgec.compiler.backends.cpu.narrow_stores import narrow_stores_pass
from edgec.compiler.backends.cpu.single_operations import keep_apart_pass
from edgec.compiler.backends.special_values import exact_special_values_pass


def storage() -> list[tvm.transform.Pass]:
    """The passes for CPU kernels, scheduled or written out, until all that they allocate has its final size."""
    return [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
    ]


def lowering() -> tvm.transform.Pass:
    """The passes for CPU kernels up to the packed calling convention."""
    passes = [
        *storage(),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        narrow_stores_pass(),
        s_tir.transform.RewriteUnsafeSelect(),
        exact_special_values_pass(),
        keep_apart_pass(),
        tirx.transform.FP8ComputeLegalize(),
        tirx.transform.VerifyMemory(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        short_refusals_pass(),
        tirx.transform.FP8StorageLegalize(),
        tirx.transform.BF16StorageLegalize(),
        keep_local_on_stack_pass(),
        native_dots_pass(),
    ]
    return tvm.transform.Sequential(passes)


def _factory() -> tuple[
    tvm.transform.Pass, Callable[[], tvm.transform.Pass], Callable[[], tvm.transform.Pass]
]:
    return lowering(), compilation_pipeline.finalize_host_passes, compilation_pipeline.finalize_device_passes


def only(symbol: str) -> tvm.transform.Pass:
    """A pass that leaves one function of a module."""

    def leave(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return tvm.IRModule({symbol: mod[symbol]}, attrs=mod.attrs)

    return tvm.transform.module_pass(leave, opt_level=0, name="edgec.Only")


def _frame() -> tuple[tvm.transform.Pass, Callable[[], tvm.transform.Pass], Callable[[], tvm.transform.Pass]]:
    passes, *rest = _factory()
    return tvm.transform.Sequential([only(NO_KERNEL), passes]), *rest


# Attribute of a kernel: LLVM's level of optimisation, where the highest takes long and gains nothing.
LEVEL = "edgec.level"
PIPELINE, FRAME = "edgec", "edgec-frame"
NO_KERNEL = "edgec_no_kernel"  # beside the kernels of a module, for a library of which they are not part
compilation_pipeline.register_tir_pipeline(PIPELINE, _factory)
compilation_pipeline.register_tir_pipeline(FRAME, _frame)
