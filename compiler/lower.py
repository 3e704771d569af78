"""From a Relax module to machine code: graph passes, layouts, kernels, tuning, build and link."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.tirx import PrimFunc

from edgec.compiler.graph.weights import lift_weights
from edgec.compiler.kernels.generic import schedule_generic
from edgec.compiler.link import link
from edgec.compiler.lowered import KernelInfo, Lowered, TuningSummary
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress
from edgec.targets.target import Target

__all__ = ["KernelInfo", "Lowered", "TuningSummary", "lower"]


def lower(mod: tvm.IRModule, target: Target, options: CompileOptions, progress: Progress) -> Lowered:
    """Compile the function ``main`` of `mod` for `target`.

    Args:
        mod: as a front end makes it: static shapes, constants embedded, binding variables named after source nodes.
        target: the hardware; its instruction set, registers and caches choose the kernels.
        options: threads, tuning effort, precision, cache folder.
        progress: told about stages and tuning.

    Returns:
        code, weights in call order, and the map from kernels to source nodes. Deterministic given the tuning cache.
    """
    tvm_target = tvm.target.Target(dict(target.tvm))
    threads = options.threads or target.cores
    progress.stage("graph")
    with tvm_target:
        mod = tvm.transform.Sequential(
            [
                relax.transform.DecomposeOpsForInference(),
                relax.transform.FoldConstant(),
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
            ]
        )(mod)
    mod, weights = lift_weights(mod)
    prims = {gv: f for gv, f in mod.functions.items() if isinstance(f, PrimFunc)}
    progress.stage("kernels", len(prims))
    functions = dict(mod.functions.items())
    kernels: dict[str, KernelInfo] = {}
    for gv, func in prims.items():
        scheduled = schedule_generic(func, target, threads)
        functions[gv] = scheduled.with_attr("global_symbol", gv.name_hint)
        kernels[gv.name_hint] = KernelInfo(gv.name_hint, "generic", (), 0, 0, "generic")
        progress.advance()
    progress.stage("build")
    mod = tvm.IRModule(functions, attrs=mod.attrs)
    with tvm_target:
        mod = tvm.transform.Sequential(
            [
                relax.transform.RewriteDataflowReshape(),
                relax.transform.ToNonDataflow(),
                relax.transform.RemovePurityChecking(),
                relax.transform.CallTIRRewrite(),
                relax.transform.StaticPlanBlockMemory(),
                relax.transform.LowerAllocTensor(),
                relax.transform.KillAfterLastUse(),
                relax.transform.LowerRuntimeBuiltin(),
                relax.transform.ComputePrimValue(),
                relax.transform.VMShapeLower(),
                relax.transform.AttachGlobalSymbol(),
            ]
        )(mod)
    executable = relax.build(mod, tvm_target, relax_pipeline=None)
    progress.stage("link")
    return Lowered(link(executable), weights, kernels)
