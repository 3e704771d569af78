"""From a Relax module to machine code: graph passes, kernels, tuning, and the back end's build."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import tvm
from tvm import relax
from tvm.ir import GlobalVar
from tvm.tirx import IntImm, PrimFunc

from edgec.compiler.backends.interface import Backend, OperandsOf, Workload
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.errors import KernelUnsupported
from edgec.compiler.graph.anchors import ANCHOR, SCHEDULE
from edgec.compiler.graph.buffers import buffer_bytes
from edgec.compiler.graph.control import MAIN, Parts
from edgec.compiler.graph.element_types import half_types
from edgec.compiler.graph.fusion import Kernel, fuse, kernel_calls
from edgec.compiler.graph.input_reads import input_reads
from edgec.compiler.graph.integer import in_integers
from edgec.compiler.graph.islands import divide, is_whole
from edgec.compiler.graph.reduction_starts import start_from_infinity
from edgec.compiler.graph.simplify import simplify
from edgec.compiler.graph.weave import Piece, kernel_symbol
from edgec.compiler.graph.weights import lift_weights
from edgec.compiler.graph.zero_products import legalisations
from edgec.compiler.lowered import KernelInfo, Lowered, TuningSummary
from edgec.compiler.operands.operands import BFLOAT16, FLOAT16, FLOAT32, TF32, Operands
from edgec.compiler.options import NARROW_SHARE, CompileOptions
from edgec.compiler.progress import Progress
from edgec.compiler.this_machine import known_rates
from edgec.compiler.thread_pool import set_threads
from edgec.compiler.tuning.tuner import NothingBuilds, Tuner
from edgec.targets.target import Target

Begin: TypeAlias = Callable[[PrimFunc], None]
_EVERYWHERE: Mapping[str, Operands] = {"bf16": BFLOAT16, "fp16": FLOAT16, "tf32": TF32}

__all__ = ["KernelInfo", "Lowered", "TuningSummary", "lower"]


def lower(
    mod: tvm.IRModule,
    target: Target,
    options: CompileOptions,
    progress: Progress,
    narrow: Mapping[int, Operands] | None = None,
    parts: Parts | None = None,
    tuner: Tuner | None = None,
) -> Lowered:
    """Compile the function `main` of `mod` for `target`.

    Args:
        mod: the output of a front end: constants embedded, binding variables named after source nodes.
        target: the hardware; its instruction set, registers and caches choose the kernels. Features that only a type
            needs with which this model does not compute are left out (`Lowered.unused`).
        options: threads, tuning effort, precision, cache folder.
        progress: receives stages and tuning notes.
        narrow: with the precision `auto`, what source nodes multiply that do not multiply float32 (`bf16` and `fp16`
            take all that can). On a target without the instruction they compute the same by float32 arithmetic.
        parts: branches and bodies of loops that `mod` calls.
        tuner: chooses the schedules; None makes one of the options.

    Returns:
        code, weights in call order, and the map from kernels to source nodes. Deterministic given the tuning cache.
    """
    wide = set[int]()
    unused = target.unused(_elements(mod, options, narrow or {}, parts))
    target = target.without(unused)
    while True:
        try:
            lowered = _lower(mod, target, options, progress, narrow or {}, parts, wide, tuner)
            return replace(lowered, results=_results(mod), unused=unused)
        except NothingBuilds as error:
            if not error.work.operands.label or not set(error.nodes) - wide:
                raise
            wide |= set(error.nodes)
            progress.note(
                f"{len(error.nodes)} nodes ({error.work.kind}) are computed in fp32: no kernel of theirs builds in "
                f"{error.work.operands.label}"
            )


def _elements(
    mod: tvm.IRModule, options: CompileOptions, narrow: Mapping[int, Operands], parts: Parts | None
) -> frozenset[str]:
    """The 16-bit types that the model, or a precision, computes with."""
    everywhere = [_EVERYWHERE[options.precision]] if options.precision in _EVERYWHERE else []
    multiplied = {operands.data for operands in (*everywhere, *narrow.values())}
    return half_types([mod, *(parts.modules.values() if parts else ())]) | multiplied


def _results(mod: tvm.IRModule) -> tuple[tuple[int, ...] | None, ...]:
    """What the model's outputs are: a file need not say it of its outputs, or may say less."""
    kind = mod["main"].ret_ty
    kinds = kind.fields if isinstance(kind, relax.TupleType) else [kind]
    return tuple(
        tuple(int(size) if isinstance(size, IntImm) else -1 for size in one.shape.values)
        if isinstance(one, relax.TensorType) and isinstance(one.shape, relax.ShapeExpr)
        else None
        for one in kinds
    )


def _lower(
    mod: tvm.IRModule,
    target: Target,
    options: CompileOptions,
    progress: Progress,
    narrow: Mapping[int, Operands],
    parts: Parts | None,
    wide: Collection[int],
    tuner: Tuner | None,
) -> Lowered:
    """`lower` with the nodes in `wide` in float32."""
    backend = backend_of(target)
    operands = _operands_of(options, narrow, wide)
    if options.precision == "auto" and narrow:
        share = max(NARROW_SHARE[one.label] for one in narrow.values())
        options = replace(options, error_budget=options.error_budget * (1 - share))
    tuner = tuner or _tuner(backend, options, progress)
    lowering = _Lowering(target, options, operands, tuner, progress)
    mod = in_integers(mod)
    if parts is not None:
        parts = replace(parts, modules={name: in_integers(part) for name, part in parts.modules.items()})
    if (parts is None or not parts.control) and is_whole(mod):
        try:
            mod, kernels = lowering.static(mod, begin=lambda kernel: backend.begin(kernel, options.cache_dir))
            mod, weights = lift_weights(mod)
            progress.stage("build")
            library = backend.build(mod, options.cache_dir, progress)
        except BaseException:
            backend.abandon()
            raise
        return Lowered(
            library.code,
            weights,
            kernels,
            tuning=tuner.summary(),
            plan=library.plan,
            libraries=backend.own_libraries(options.cache_dir),
            objects=library.objects,
        )
    pieces, kernels = lowering.pieces(mod, parts or Parts())
    progress.stage("build")
    control = parts.control if parts else ()
    program = backend.build_program(pieces, control, MAIN, options.cache_dir, progress)
    return Lowered(
        program.code,
        dict(program.weights),
        kernels,
        tuning=tuner.summary(),
        plan=program.plan,
        varies=True,
        calls=program.calls,
        workspace=program.workspace,
        stack=program.stack,
        libraries=backend.own_libraries(options.cache_dir),
        objects=program.objects,
    )


def _tuner(backend: Backend, options: CompileOptions, progress: Progress) -> Tuner:
    """A tuner that knows the machine's limits, if it will time anything."""
    rates = known_rates(backend, progress) if options.tune != "none" else None
    if rates is None:
        return Tuner(backend, options, progress)
    kinds = {"bf16", "fp16", "int8"}

    def floor(work: Workload) -> float:
        kind = work.operands.label if work.operands.label in kinds else "fp32"
        return rates.floor_s(work.flops, work.bytes, work.bytes, work.threads, kind)[0]

    return Tuner(backend, options, progress, floor=floor)


@dataclass
class _Lowering:
    """Turns functions into calls of scheduled kernels."""

    target: Target
    options: CompileOptions
    operands: OperandsOf
    tuner: Tuner
    progress: Progress

    @property
    def threads(self) -> int:
        return self.options.threads or self.target.cores

    def static(
        self, mod: tvm.IRModule, begin: Begin | None = None
    ) -> tuple[tvm.IRModule, dict[str, KernelInfo]]:
        """A function of static shapes, with layouts and templates; `begin` gets each kernel as it will be built."""
        self.progress.stage("graph")
        with self.tuner.backend.tvm_target:
            budget = self.options.error_budget
            mod = _legalise(self.tuner.backend.choose_layouts(simplify(mod), self.operands, budget))
            joined = partial(self.tuner.backend.joined, threads=self.threads)
            mod, calls = fuse(mod, joined=joined)
        return _make_kernels(mod, calls, self.threads, self.tuner, self.progress, begin)

    def dynamic(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, KernelInfo]]:
        """A function whose sizes are known at run time: a kernel for each operator, convolutions with what follows."""
        with self.tuner.backend.tvm_target:
            mod = self.tuner.backend.with_free_sizes(mod, self.threads)
            mod = relax.transform.DeadCodeElimination(["main"])(_legalise(mod))
            mod, calls = fuse(mod, anchors_only=True)
        set_threads(self.threads)
        users: dict[GlobalVar, list[Kernel]] = {}
        for gv, call in zip(kernel_calls(mod), calls, strict=True):
            users.setdefault(gv, []).append(call)
        infos: dict[str, KernelInfo] = {}
        for gv, members in users.items():
            kernel, first = mod[gv], members[0]
            symbol = str(gv.name_hint)
            if first.anchor:
                kernel = kernel.with_attr(ANCHOR, first.anchor)  # which fusion drops
            made = self.tuner.backend.schedule(kernel, self.threads).with_attr("global_symbol", symbol)
            mod.update_func(gv, made)
            nodes = tuple(member.nodes for member in members)
            finished = dict(kernel.attrs or {}).get(SCHEDULE)
            if finished is not None:
                kind, schedule = symbol.rstrip("0123456789"), str(finished)
            else:
                kind, schedule = (first.ops[0], "free sizes") if first.anchor else (first.ops[-1], "generic")
            infos[symbol] = KernelInfo(symbol, kind, nodes, 0, 0, schedule)
        return mod, infos

    def pieces(self, mod: tvm.IRModule, parts: Parts) -> tuple[list[Piece], dict[str, KernelInfo]]:
        """The islands of static shapes in all parts, and what connects them."""
        pieces: list[Piece] = []
        kernels: dict[str, KernelInfo] = {}

        def add(name: str, made: tuple[tvm.IRModule, dict[str, KernelInfo]], *, static: bool) -> None:
            lowered, infos = made
            lowered, weights = lift_weights(lowered)
            pieces.append(Piece(name, lowered, weights, static))
            for symbol, info in infos.items():
                own = kernel_symbol(name, symbol, MAIN)
                kernels[own] = replace(info, symbol=own)

        for name, module in {MAIN: mod, **parts.modules}.items():
            # Exporters reorder weights inside of branches, where no pass on the source folds constants.
            module = relax.transform.FoldConstant()(module)
            divided = divide(module, f"{name}.i")
            for island, inner in divided.islands.items():
                add(island, self.static(inner), static=True)
            add(name, self.dynamic(divided.rest), static=False)
        return pieces, kernels


def _operands_of(
    options: CompileOptions, narrow: Mapping[int, Operands], wide: Collection[int]
) -> OperandsOf:
    """What a source node multiplies; those in `wide` multiply float32."""
    kept = frozenset(wide)
    everywhere = _EVERYWHERE.get(options.precision)
    if everywhere is not None:
        return lambda node: FLOAT32 if node in kept else everywhere
    return lambda node: narrow.get(node, FLOAT32) if node is not None and node not in kept else FLOAT32


def _legalise(mod: tvm.IRModule) -> tvm.IRModule:
    """Replace the remaining operators by calls of kernels, as TVM legalises them."""
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(legalisations()),
        relax.transform.AnnotateTIROpPattern(),
    ]
    return start_from_infinity(tvm.transform.Sequential(passes)(mod))


def _make_kernels(
    mod: tvm.IRModule,
    calls: list[Kernel],
    threads: int,
    tuner: Tuner,
    progress: Progress,
    begin: Begin | None,
) -> tuple[tvm.IRModule, dict[str, KernelInfo]]:
    """Schedule every kernel; a kernel that several calls share is scheduled once."""
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
    by_name = {str(gv.name_hint): (gv, f) for gv, f in mod.functions.items() if isinstance(f, PrimFunc)}
    works = {s: _work(by_name[s][1], members[0], threads, tuner) for s, members in by_symbol.items()}
    try:
        tuner.tune([(work, len(by_symbol[s])) for s, work in works.items() if work is not None])
    except NothingBuilds as error:
        same = [s for s, work in works.items() if work is not None and work.key == error.work.key]
        nodes = [node for s in same for member in by_symbol[s] for node in member.nodes]
        raise NothingBuilds(error.work, nodes) from error
    progress.stage("kernels", len(by_symbol))
    chosen = {s: (work, tuner.choose(work)) for s, work in works.items() if work is not None}
    schedules = tuner.backend.settle(chosen, tuner.options.cache_dir, progress)
    functions = {gv: f for gv, f in mod.functions.items() if not isinstance(f, PrimFunc)}
    infos: dict[str, KernelInfo] = {}
    given = input_reads(mod)
    for symbol, members in by_symbol.items():
        gv, func = by_name[symbol]
        made, info = _make_kernel(symbol, func, members, threads, tuner.backend, works[symbol], schedules)
        made = tuner.backend.reading_inputs(made, given[symbol])
        functions[gv] = made.with_attr("global_symbol", symbol)
        if begin is not None:
            begin(functions[gv])
        infos[symbol] = info
        progress.advance()
    return tvm.IRModule(functions, attrs=mod.attrs), infos


def _work(func: PrimFunc, kernel: Kernel, threads: int, tuner: Tuner) -> Workload | None:
    """The workload of a kernel; None where no template makes it."""
    if not kernel.anchor:
        return None
    budget = tuner.options.error_budget
    return tuner.backend.workload_of(func, kernel.anchor, kernel.ops, threads, budget)


def _make_kernel(
    symbol: str,
    func: PrimFunc,
    members: list[Kernel],
    threads: int,
    backend: Backend,
    work: Workload | None,
    schedules: Mapping[str, Any],
) -> tuple[PrimFunc, KernelInfo]:
    first = members[0]
    nodes = tuple(member.nodes for member in members)
    if work is not None:
        schedule = schedules[symbol]
        text = f"{schedule} {work.operands.label}".rstrip()
        return work.emit(schedule), KernelInfo(symbol, work.kind, nodes, work.flops, work.bytes, text)
    info = KernelInfo(symbol, first.ops[-1], nodes, 0, buffer_bytes(func), "generic")
    try:
        return backend.schedule(func, threads), info
    except KernelUnsupported as error:
        operators = ", ".join(dict.fromkeys(first.ops))
        told = f"{backend.target.name} cannot compute {operators}: {error}"
        raise KernelUnsupported(told, [node for member in members for node in member.nodes]) from error
