"""From a Relax module to machine code: graph passes, layouts, kernels, tuning, build and link."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import tvm
from tvm import relax
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.layouts.planner import OperandsOf, plan_layouts
from edgec.compiler.backends.cpu.link import link
from edgec.compiler.backends.cpu.object_cache import ObjectCache
from edgec.compiler.backends.cpu.objects import kernel_objects
from edgec.compiler.backends.cpu.templates.generic import schedule_generic
from edgec.compiler.backends.cpu.templates.workloads import Workload, buffer_bytes, workload_of
from edgec.compiler.backends.cpu.tir_pipeline import FRAME, NO_KERNEL
from edgec.compiler.graph.attention import fuse_attention
from edgec.compiler.graph.fusion import Kernel, fuse, kernel_calls
from edgec.compiler.graph.memory import plan_memory
from edgec.compiler.graph.one_dimensional import widen
from edgec.compiler.graph.simplify import simplify
from edgec.compiler.graph.weights import lift_weights
from edgec.compiler.lowered import KernelInfo, Lowered, Plan, TuningSummary
from edgec.compiler.operands.operands import BFLOAT16, FLOAT32
from edgec.compiler.options import BF16_SHARE, CompileOptions
from edgec.compiler.progress import Progress
from edgec.compiler.tuning.tuner import Tuner, set_threads
from edgec.targets.target import Target

__all__ = ["KernelInfo", "Lowered", "TuningSummary", "lower"]


def lower(
    mod: tvm.IRModule,
    target: Target,
    options: CompileOptions,
    progress: Progress,
    bf16_nodes: Collection[int] = (),
) -> Lowered:
    """Compile the function ``main`` of `mod` for `target`.

    Args:
        mod: as a front end makes it: static shapes, constants embedded, binding variables named after source nodes.
        target: the hardware; its instruction set, registers and caches choose the kernels.
        options: threads, tuning effort, precision, cache folder.
        progress: told about stages and tuning.
        bf16_nodes: with the precision ``auto``, the source nodes that multiply in bfloat16 (``bf16`` takes all that
            can). On a target without the instruction they compute the same by float32 arithmetic.

    Returns:
        code, weights in call order, and the map from kernels to source nodes. Deterministic given the tuning cache.
    """
    tvm_target = tvm.target.Target(dict(target.tvm))
    threads = options.threads or target.cores
    progress.stage("graph")
    with tvm_target:
        mod = _to_kernels(mod, target, _operands_of(options, bf16_nodes))
        mod, calls = fuse(mod)
    if options.precision == "auto" and bf16_nodes:
        options = replace(options, error_budget=options.error_budget * (1 - BF16_SHARE))
    tuner = Tuner(target, options, progress)
    mod, kernels = _make_kernels(mod, calls, target, threads, tuner, progress)
    mod, weights = lift_weights(mod)
    progress.stage("build")
    with tvm_target:
        mod, plan = _finalise(mod)
    functions = [f for f in mod.functions.values() if isinstance(f, PrimFunc)]
    objects = kernel_objects(functions, target, ObjectCache(options.cache_dir), progress)
    mod[NO_KERNEL] = _no_kernel()  # a library without machine code of its own would be written as C source
    executable = relax.build(mod, tvm_target, relax_pipeline=None, tir_pipeline=FRAME)
    progress.stage("link")
    return Lowered(link(executable, objects), weights, kernels, tuning=tuner.summary(), plan=plan)


def _operands_of(options: CompileOptions, nodes: Collection[int]) -> OperandsOf:
    """What a source node multiplies."""
    chosen = frozenset(nodes)
    if options.precision == "bf16":
        return lambda _node: BFLOAT16
    return lambda node: BFLOAT16 if options.precision == "auto" and node in chosen else FLOAT32


def _to_kernels(mod: tvm.IRModule, target: Target, operands_of: OperandsOf) -> tvm.IRModule:
    """From operators to calls of kernels, in blocked layouts."""
    mod = fuse_attention(widen(simplify(mod)), target)
    mod = plan_layouts(mod, target, operands_of)
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
    ]
    return tvm.transform.Sequential(passes)(mod)


def _make_kernels(
    mod: tvm.IRModule,
    calls: list[Kernel],
    target: Target,
    threads: int,
    tuner: Tuner,
    progress: Progress,
) -> tuple[tvm.IRModule, dict[str, KernelInfo]]:
    """Schedule every kernel; kernels that several calls share are made once."""
    called = kernel_calls(mod)
    if len(called) != len(calls):
        raise RuntimeError(f"fusion left {len(called)} kernel calls where {len(calls)} were planned")
    by_symbol: dict[str, list[Kernel]] = {}
    for gv, kernel in zip(called, calls, strict=True):
        by_symbol.setdefault(str(gv.name_hint), []).append(kernel)
    # Kernels that only rename a shape become views; that has to be seen before they are scheduled.
    mod = relax.transform.RewriteDataflowReshape()(mod)
    mod = relax.transform.DeadCodeElimination(["main"])(mod)
    left = {str(gv.name_hint) for gv in kernel_calls(mod)}
    by_symbol = {symbol: members for symbol, members in by_symbol.items() if symbol in left}
    set_threads(threads)
    progress.stage("kernels", len(by_symbol))
    functions = {gv: f for gv, f in mod.functions.items() if not isinstance(f, PrimFunc)}
    by_name = {str(gv.name_hint): (gv, f) for gv, f in mod.functions.items() if isinstance(f, PrimFunc)}
    infos: dict[str, KernelInfo] = {}
    for symbol, members in by_symbol.items():
        gv, func = by_name[symbol]
        made, info = _make_kernel(symbol, func, members, target, threads, tuner)
        functions[gv] = made.with_attr("global_symbol", symbol)
        infos[symbol] = info
        progress.advance()
    return tvm.IRModule(functions, attrs=mod.attrs), infos


def _make_kernel(
    symbol: str, func: PrimFunc, members: list[Kernel], target: Target, threads: int, tuner: Tuner
) -> tuple[PrimFunc, KernelInfo]:
    first = members[0]
    nodes = tuple(member.nodes for member in members)
    work = None
    if first.anchor:
        budget = tuner.options.error_budget
        work = workload_of(func, first.anchor, first.ops, target, threads, budget)
    if work is not None:
        schedule = tuner.choose(work)
        info = KernelInfo(symbol, work.kind, nodes, work.flops, work.bytes, schedule_text(work, schedule))
        return work.emit(schedule), info
    info = KernelInfo(symbol, first.ops[-1], nodes, 0, buffer_bytes(func), "generic")
    return schedule_generic(func, target, threads), info


def schedule_text(work: Workload, schedule: object) -> str:
    """The schedule in words, with the type of the factors where that is not float32."""
    return f"{schedule} {work.operands.label}".rstrip()


def _no_kernel() -> PrimFunc:
    with IRBuilder() as builder, T.prim_func():
        T.func_name(NO_KERNEL)
        T.func_attr({"global_symbol": NO_KERNEL, "tirx.is_scheduled": True, "tirx.noalias": True})
        buffer = T.arg("nothing", T.buffer((1,), "float32"))
        T.buffer_store(buffer, T.float32(0), [0])
    return builder.get()


def _finalise(mod: tvm.IRModule) -> tuple[tvm.IRModule, Plan]:
    """Plan memory and lower to what the virtual machine runs."""
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ]
    mod, plan = plan_memory(tvm.transform.Sequential(passes)(mod))
    passes = [
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
    return tvm.transform.Sequential(passes)(mod), plan
