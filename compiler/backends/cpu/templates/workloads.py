"""Which template makes which kernel: from a fused function to a workload with its candidates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.specs import ConvSpec, DenseSpec, MatmulSpec, PoolSpec, Spec, decode
from edgec.compiler.backends.cpu.templates import (
    attention,
    conv2d,
    conv2d_candidates,
    dense,
    matmul,
    sliding,
    winograd,
    winograd_candidates,
)
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue, split_epilogue
from edgec.compiler.backends.cpu.templates.winograd_tiles import Schedule as WinogradSchedule
from edgec.compiler.backends.interface import FAMILY, Workload
from edgec.compiler.graph.attention_spec import AttentionSpec
from edgec.compiler.graph.buffers import buffer_bytes
from edgec.compiler.operands.operands import FLOAT32
from edgec.targets.target import Target

# Waking the thread pool costs some microseconds: a kernel of fewer operations, or bytes moved, runs on one thread.
PARALLEL_FLOPS = 200_000
PARALLEL_BYTES = 65_536
WITH_WINOGRAD = 100 * winograd.VERSION + conv2d.VERSION  # the version of a choice between both kinds
FAR_APART = 1.6  # a kind of schedule whose best is estimated to be slower by more is timed once only


def workload_of(
    func: PrimFunc,
    anchor: str,
    ops: tuple[str, ...],
    target: Target,
    threads: int,
    error_budget: float = 1e-3,
) -> Workload | None:
    """The workload of a fused function; None when no template can make it.

    `error_budget` is the largest error that the model's outputs may have, relative to their largest value:
    schedules that trade accuracy for speed have to stay far below it.
    """
    spec = decode(anchor)
    flops = _flops(spec)
    size = buffer_bytes(func)
    if flops < PARALLEL_FLOPS and size < PARALLEL_BYTES:
        threads = 1
    extra: list[str] = []
    made: _Made | None
    if isinstance(spec, AttentionSpec):
        made = _attention(spec, func, target, threads)
    else:
        epilogue = split_epilogue(func)
        if epilogue is None or not epilogue.output.same_as(epilogue.params[-1]):
            return None
        made = _candidates(spec, epilogue, target, threads, error_budget)
        extra = [str(tuple(int(d) for d in p.ty.shape)) for p in epilogue.params[len(epilogue.inputs) :]]
    if made is None:
        return None
    kind, version, candidates, emit = made
    key = f"{kind}.v{version}|{anchor}|{'+'.join(ops)}|{','.join(extra)}|threads{threads}"
    family = f"{kind}.v{version}|{anchor}|{FAMILY}|threads{threads}"
    operands = spec.operands if isinstance(spec, ConvSpec | DenseSpec) else FLOAT32
    return Workload(key, family, kind, flops, size, threads, tuple(candidates), emit, operands)


def _flops(spec: Spec) -> int:
    if isinstance(spec, ConvSpec | AttentionSpec):
        return spec.flops
    if isinstance(spec, DenseSpec):
        return 2 * spec.rows * spec.inner * spec.cols
    if isinstance(spec, MatmulSpec):
        return 2 * math.prod(spec.batch) * spec.rows * spec.inner * spec.cols
    w = spec.window
    return spec.batch * spec.blocks * spec.lanes * math.prod(w.out) * math.prod(w.kernel)


_Made: TypeAlias = tuple[str, int, list[Any], Callable[[Any], PrimFunc]]


def _attention(spec: AttentionSpec, func: PrimFunc, target: Target, threads: int) -> _Made:
    params = list(func.params)
    found = attention.candidates(spec, target, threads)
    return "attention", attention.VERSION, found, lambda s: attention.emit(spec, params, s, threads)


def _candidates(
    spec: ConvSpec | PoolSpec | DenseSpec | MatmulSpec,
    epilogue: Epilogue,
    target: Target,
    threads: int,
    error_budget: float,
) -> _Made | None:
    if isinstance(spec, ConvSpec) and not spec.depthwise:
        return _convolution(spec, epilogue, target, threads, error_budget)
    if isinstance(spec, ConvSpec | PoolSpec):
        kind = "depthwise" if isinstance(spec, ConvSpec) else "pool"
        return (
            kind,
            sliding.VERSION,
            sliding.candidates(spec, target, threads),
            lambda s: sliding.emit(spec, epilogue, s, threads),
        )
    if isinstance(spec, MatmulSpec):
        found = matmul.candidates(spec, target, threads)
        return (
            ("matmul", matmul.VERSION, found, lambda s: matmul.emit(spec, epilogue, s, threads))
            if found
            else None
        )
    return (
        "dense",
        dense.VERSION,
        dense.candidates(spec, target, threads),
        lambda s: dense.emit(spec, epilogue, s, threads),
    )


def _convolution(
    spec: ConvSpec, epilogue: Epilogue, target: Target, threads: int, error_budget: float
) -> _Made:
    """Direct and Winograd schedules, in turn, so that few trials meet both; the kind that should win first."""
    direct = conv2d_candidates.candidates(spec, target, threads, flattens=_flattens(epilogue))
    ranked = winograd_candidates.candidates(spec, target, threads, error_budget)
    fast = [s for _, s in ranked]

    def emit(schedule: Any) -> PrimFunc:  # noqa: ANN401
        if isinstance(schedule, WinogradSchedule):
            return winograd.emit(spec, epilogue, schedule, threads)
        return conv2d.emit(spec, epilogue, schedule, threads)

    found = direct
    if ranked:
        best_direct = conv2d_candidates.cost(spec, direct[0], target, threads)
        found = _in_turn((ranked[0][0], fast), (best_direct, direct))
    version = WITH_WINOGRAD if fast else conv2d.VERSION
    return "conv2d", version, found, emit


def _in_turn(first: tuple[float, list[Any]], second: tuple[float, list[Any]]) -> list[Any]:
    """Interleave two kinds of schedules, given with the estimate of their best; of a kind that is far behind only one
    comes early.
    """
    (low, faster), (high, slower) = sorted((first, second), key=lambda pair: pair[0])
    if high > FAR_APART * low:
        return [*faster[:2], *slower[:1], *faster[2:], *slower[1:]]
    longer = max(len(faster), len(slower))
    return [schedule for k in range(longer) for kind in (faster, slower) for schedule in kind[k : k + 1]]


def _flattens(epilogue: Epilogue) -> bool:
    """Whether the epilogue reads its other operands either at every pixel or at none.

    Then a pixel's number can stand for its column: the address is the same.
    """
    out = [int(d) for d in epilogue.output.ty.shape]
    for param in epilogue.params:
        if any(param.same_as(operand) for operand in epilogue.inputs):
            continue
        shape = [int(d) for d in param.ty.shape]
        if len(shape) == 5 and shape[2:4] != out[2:4] and shape[2:4] != [1, 1]:
            return False
    return len(out) == 5
