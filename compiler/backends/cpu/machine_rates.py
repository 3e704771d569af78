"""Measure what this machine can do, in a few seconds: see `edgec.targets.machine_rates`.

Every figure is the best of several shots, because other programs only take away. The clock rate comes from a chain of
shifts and exclusive ors, two cycles a link on every core.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx import AllocBuffer, PrimFunc, SeqStmt, Stmt

from edgec.compiler.backends.cpu import peak
from edgec.compiler.backends.cpu.dot_instructions import INSTRUCTIONS, operands_for
from edgec.compiler.backends.cpu.layouts.byte_pairs import byte_pairs
from edgec.compiler.backends.cpu.templates import dot
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    const,
    loop,
    unrolled,
    vector_load,
)
from edgec.compiler.backends.cpu.timing import build
from edgec.compiler.operands.operands import BFLOAT16, INT8, UINT8_INT8, Operands
from edgec.targets.features import ASIMDHP, AVX512_FP16
from edgec.targets.loader import detect
from edgec.targets.machine_rates import Level, MachineRates
from edgec.targets.microarchitecture import this_processor
from edgec.targets.target import Target

STEPS = 20_000
LINKS = 16  # of the clock's chain in a step
LINK_CYCLES = 2
CHASES = 1 << 15  # dependent loads of a shot
LINE = 64
SECONDS = 0.08  # for each figure
FP16 = (AVX512_FP16, ASIMDHP)  # features with arithmetic on whole vectors of float16


def measure_rates(target: Target, threads: int) -> MachineRates:
    """The limits of this machine with the instructions of `target`, on one thread and on `threads`.

    Requires that this machine runs code for `target`.
    """
    processor, family = this_processor()
    ghz = _clock_ghz(target)
    kinds = {"fp32": lambda: _fma(target, "float32")}
    if target.features & set(FP16):
        kinds["fp16"] = lambda: _fma(target, "float16")
    native = INT8 if target.arch == "aarch64" else UINT8_INT8
    for name, operands in (("bf16", BFLOAT16), ("int8", byte_pairs(target) or native)):
        found = operands_for(operands, target)
        if found.instruction is not None:
            kinds[name] = lambda operands=found: _dots(target, operands)  # type: ignore[misc]
    gops = {name: _pair(make, threads) for name, make in kinds.items()}
    latency = 2.0 * target.fp32_lanes * ghz / _best(_fma(target, "float32", chains=1))
    return MachineRates(
        processor, family, target.name, threads, round(ghz, 3), gops, round(latency, 2), _levels(target, threads)
    )  # fmt: skip


Figure = Callable[[], float]


def _best(figure: Figure) -> float:
    """The highest value within `SECONDS`, three values at least."""
    values, until = [figure(), figure(), figure()], time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        values.append(figure())
    return max(values)


def _pair(
    make: Callable[[], Figure], threads: int, shared: Callable[[], Figure] | None = None
) -> tuple[float, float]:
    """The figure of one core, and the sum over all of them at once; there each has what `shared` makes."""
    one = _best(make())
    if threads == 1:
        return round(one, 1), round(one, 1)
    figures = [(shared or make)() for _ in range(threads)]
    cores = sorted(os.sched_getaffinity(0))
    ready = threading.Barrier(threads)

    def run(number: int) -> float:
        # A core each: left alone, threads that were just woken share one for milliseconds.
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        ready.wait()
        values, until = [figures[number]()], time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            values.append(figures[number]())
        return sorted(values)[3 * len(values) // 4]  # in some shots another program interrupts, or the others

    with ThreadPoolExecutor(threads) as pool:
        return round(one, 1), round(sum(pool.map(run, range(threads))), 1)


def _kernel(func: PrimFunc, target: Target, arrays: list[np.ndarray]) -> Callable[[], float]:
    """Seconds of one call."""
    call = build(func, tvm.target.Target(dict(target.tvm)))["kernel"]
    tensors = [tvm.runtime.tensor(array) for array in arrays]

    def seconds() -> float:
        begin = time.perf_counter()
        call(*tensors)
        return time.perf_counter() - begin

    return seconds


def _func(buffers: list[tirx.Buffer], body: Stmt) -> PrimFunc:
    return PrimFunc(buffers, body).with_attrs({"tirx.noalias": True, "s_tir": True})


def _fma(target: Target, dtype: str, chains: int = 0) -> Figure:
    """Billions of operations a second of multiply-adds on registers."""
    lanes = target.vector_bits // (16 if dtype == "float16" else 32)
    count = chains or min(24, target.vector_registers - 4)
    source = tirx.decl_buffer((2, lanes), dtype, "source")
    out = tirx.decl_buffer((count, lanes), dtype, "out")

    def task() -> Stmt:
        acc = Accumulators(count, lanes, dtype)
        factor, term = vector_load(source, [0, 0], lanes), vector_load(source, [1, 0], lanes)
        steps = loop(
            STEPS, lambda _: unrolled(count, lambda k: acc.set(k, acc.get(k) * factor + term)), "step"
        )
        store = unrolled(count, lambda k: out.vstore([k, const(0)], acc.get(k)))
        return acc.allocate([*acc.fill(1.0), steps, store])

    func = _func([source, out], task())
    halves = np.full((2, lanes), 0.5, dtype)
    seconds = _kernel(func, target, [halves, np.zeros((count, lanes), dtype)])
    return lambda: 2.0 * STEPS * count * lanes / seconds() / 1e9


def _dots(target: Target, operands: Operands) -> Figure:
    """Billions of operations a second of a dot instruction on registers."""
    lanes = INSTRUCTIONS[operands.instruction or ""].lanes
    count = min(24, target.vector_registers - 4)
    source = tirx.decl_buffer((2, lanes), "int32", "source")
    out = tirx.decl_buffer((count, lanes), operands.accumulator, "out")

    def task() -> Stmt:
        acc = Accumulators(count, lanes, operands.accumulator)
        left, right = vector_load(source, [0, 0], lanes), vector_load(source, [1, 0], lanes)

        def add(k: Expr) -> Stmt:
            return acc.set(k, dot.multiply_add(operands, acc.get(k), left, right, lanes))

        steps = loop(STEPS, lambda _: unrolled(count, add), "step")
        store = unrolled(count, lambda k: out.vstore([k, const(0)], acc.get(k)))
        return acc.allocate([*acc.fill(0.0), steps, store])

    func = _func([source, out], task())
    zeros = np.zeros((count, lanes), operands.accumulator)
    seconds = _kernel(func, target, [np.zeros((2, lanes), np.int32), zeros])
    return lambda: 2.0 * STEPS * count * lanes * operands.step / seconds() / 1e9


def _clock_ghz(target: Target) -> float:
    """Billions of cycles a second."""
    out = tirx.decl_buffer((1,), "int32", "out")
    state = tirx.decl_buffer((1,), "int32", "state", scope="local")

    def link(_: Expr) -> Stmt:
        value = state[0]
        return tirx.BufferStore(state, value ^ (value >> tirx.IntImm("int32", 3)), [const(0)])

    body = [
        AllocBuffer(state),
        tirx.BufferStore(state, out[0], [const(0)]),
        loop(STEPS, lambda _: unrolled(LINKS, link), "step"),
        tirx.BufferStore(out, state[0], [const(0)]),
    ]
    seconds = _kernel(_func([out], SeqStmt(body)), target, [np.full(1, 2**30 + 12345, np.int32)])
    return _best(lambda: STEPS * LINKS * LINK_CYCLES / seconds() / 1e9)


def _latency_ns(target: Target, size: int) -> float:
    """Nanoseconds of a load that depends on the one before, within `size` bytes."""
    lines = max(2, size // LINE)
    order = np.random.default_rng(0).permutation(lines)
    chain = np.zeros((lines, LINE // 4), np.int32)
    chain[order, 0] = np.roll(order, -1) * (LINE // 4)
    links = tirx.decl_buffer((lines * (LINE // 4),), "int32", "links")
    out = tirx.decl_buffer((1,), "int32", "out")
    at = tirx.decl_buffer((1,), "int32", "at", scope="local")
    body = [
        AllocBuffer(at),
        tirx.BufferStore(at, out[0], [const(0)]),
        loop(CHASES, lambda _: tirx.BufferStore(at, links[at[0]], [const(0)]), "step"),
        tirx.BufferStore(out, at[0], [const(0)]),
    ]
    seconds = _kernel(_func([links, out], SeqStmt(body)), target, [chain.reshape(-1), np.zeros(1, np.int32)])
    return 1e9 / _best(lambda: CHASES / seconds())


def _levels(target: Target, threads: int) -> tuple[Level, ...]:
    here = detect()
    sizes = {"L1": here.l1d_bytes, "L2": here.l2_bytes, "L3": here.l3_bytes}
    far = min(max(2 * here.l3_bytes, 8 * here.l2_bytes, 64 << 20), peak.LARGEST_BYTES)
    arrays = {"L1": sizes["L1"] // 2, "L2": sizes["L2"] // 2, "L3": max(sizes["L3"] // 4, 2 * sizes["L2"])}
    levels = [name for name in ("L1", "L2") if sizes[name]]
    levels += ["L3"] if sizes["L3"] > 2 * sizes["L2"] else []
    found = []
    for name in (*levels, "memory"):
        size = arrays.get(name, far)
        each = size if name in ("L1", "L2") else size // threads
        rates = _pair(partial(peak.Reading, target, 1, size), threads, partial(peak.Reading, target, 1, each))
        found.append(Level(name, sizes.get(name, 0), round(_latency_ns(target, size), 2), rates))
    return tuple(found)
