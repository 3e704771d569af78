"""The machine's limits, measured with small kernels: fp32 arithmetic and read bandwidth."""

from __future__ import annotations

import time

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    seq,
    unrolled,
    vector_load,
)
from edgec.compiler.backends.cpu.timing import build
from edgec.compiler.thread_pool import set_threads
from edgec.targets.loader import detect
from edgec.targets.measured_rates import Bandwidth, Machine
from edgec.targets.target import Target

STEPS = 20_000  # a shot of the arithmetic probe: 0.1 ms on one core at 150 GFLOP/s
SHOTS = 2  # the faster one counts: an interrupt takes a tenth of a shot
PEAK_SECONDS = (
    1.0  # duration of a peak measurement: a neighbour releases a core within some tens of milliseconds
)
DEPTH = 128  # products in a row of the inner loop that SpeedProbe runs
COLUMNS = 2  # vectors in a row of its tile
LOOP_REACHES = (
    0.93  # share of the peak that this loop reaches with two loads per cycle; 0.99 on a Cascade Lake
)
CHAINS = 8  # concurrent sums while reading
SHOT_BYTES = 16 << 20  # least bytes that a shot of the reading probe reads
LARGEST_BYTES = 512 << 20  # the largest array that is read


def _chains(target: Target) -> int:
    """Concurrent multiply-adds: enough to hide the latency of two units."""
    return min(24, target.vector_registers - 4)


def _multiply_adds(target: Target, threads: int) -> PrimFunc:
    """Chains of multiply-adds on registers only."""
    lanes, count = target.fp32_lanes, _chains(target)
    source = tirx.decl_buffer((2, lanes), "float32", "source")
    out = tirx.decl_buffer((threads, count, lanes), "float32", "out")

    def task(t: Expr) -> Stmt:
        acc = Accumulators(count, lanes)
        factor, term = vector_load(source, [0, 0], lanes), vector_load(source, [1, 0], lanes)
        steps = loop(
            STEPS, lambda _: unrolled(count, lambda k: acc.set(k, acc.get(k) * factor + term)), "step"
        )
        store = unrolled(count, lambda k: out.vstore([t, k, const(0)], acc.get(k)))
        return acc.allocate([*acc.fill(1.0), seq([steps]), store])

    func = PrimFunc([source, out], parallel([threads], task, threads))
    return func.with_attrs({"tirx.noalias": True, "s_tir": True})


def _tile_products(target: Target) -> int:
    """Vectors that a call of the inner loop multiplies on each thread: about as many as a shot of the peak."""
    tile = (target.vector_registers - 4) // COLUMNS * COLUMNS * DEPTH
    return tile * max(1, STEPS * _chains(target) // tile)


def _products(target: Target, threads: int) -> PrimFunc:
    """The inner loop of a convolution: a tile of outputs accumulates products of inputs and weights in the L1 cache."""
    lanes, rows = target.fp32_lanes, (target.vector_registers - 4) // COLUMNS
    inputs = tirx.decl_buffer((threads, rows, DEPTH), "float32", "inputs")
    weights = tirx.decl_buffer((threads, DEPTH, COLUMNS, lanes), "float32", "weights")
    out = tirx.decl_buffer((threads, rows * COLUMNS, lanes), "float32", "out")
    times = _tile_products(target) // (rows * COLUMNS * DEPTH)

    def task(t: Expr) -> Stmt:
        acc = Accumulators(rows * COLUMNS, lanes)

        def product(k: Expr, r: Expr, c: Expr) -> Stmt:
            place = r * const(COLUMNS) + c
            left = broadcast(inputs.vload([t, r, k]), lanes)
            return acc.set(place, acc.get(place) + left * vector_load(weights, [t, k, c, 0], lanes))

        def step(k: Expr) -> Stmt:
            return unrolled(rows, lambda r: unrolled(COLUMNS, lambda c: product(k, r, c)))

        body = loop(times, lambda _: loop(DEPTH, step, "k"), "times")
        store = unrolled(acc.count, lambda k: out.vstore([t, k, const(0)], acc.get(k)))
        return acc.allocate([*acc.fill(0.0), seq([body]), store])

    func = PrimFunc([inputs, weights, out], parallel([threads], task, threads))
    return func.with_attrs({"tirx.noalias": True, "s_tir": True})


class _Kernel:
    """A benchmark kernel with its own arrays; TVM's pool must have the threads that it was built for."""

    def __init__(self, func: PrimFunc, target: Target) -> None:
        self._call = build(func, tvm.target.Target(dict(target.tvm)))["kernel"]
        shapes = [[int(size) for size in parameter.ty.shape] for parameter in func.params]
        self._arrays = [tvm.runtime.tensor(np.full(shape, 0.5, np.float32)) for shape in shapes]

    def seconds(self) -> float:
        """Seconds of one call."""
        begin = time.perf_counter()
        self._call(*self._arrays)
        return time.perf_counter() - begin


class _RateProbe:
    """Measures the current rate of a kernel with a known number of operations."""

    def __init__(self, func: PrimFunc, target: Target, operations: float) -> None:
        self._kernel, self._operations = _Kernel(func, target), operations

    def __call__(self) -> float:
        """Billions of fp32 operations a second (a multiply-add counts as two)."""
        return self._operations / min(self._kernel.seconds() for _ in range(SHOTS)) / 1e9


class PeakProbe(_RateProbe):
    """Measures the current highest fp32 rate, with arithmetic on registers alone, in a fifth of a millisecond.

    Requires that this machine runs code for `target`, and that TVM's pool has `threads` threads when it is called.
    """

    def __init__(self, target: Target, threads: int) -> None:
        operations = 2.0 * STEPS * _chains(target) * target.fp32_lanes * threads
        super().__init__(_multiply_adds(target, threads), target, operations)


class SpeedProbe(_RateProbe):
    """Measures the current rate of a convolution's inner loop, in a fifth of a millisecond.

    A neighbour on the same core slows it down as it slows down layers; arithmetic on registers is affected less. It
    reads a few kilobytes, and leaves the second cache as it is. Requires the same as `PeakProbe`.
    """

    def __init__(self, target: Target, threads: int) -> None:
        operations = 2.0 * target.fp32_lanes * threads * _tile_products(target)
        super().__init__(_products(target, threads), target, operations)


def fp32_peak_gflops(target: Target, threads: int) -> float:
    """The highest rate of `PEAK_SECONDS` with `threads` threads, in billions of fp32 operations a second.

    Requires that this machine runs code for `target`.
    """
    set_threads(threads)
    probe = PeakProbe(target, threads)
    rates, until = [probe()], time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < until:
        rates.append(probe())
    return max(rates)


def _sums(target: Target, threads: int, rows: int, passes: int) -> PrimFunc:
    """Each thread sums its rows of `CHAINS` vectors, `passes` times over."""
    lanes = target.fp32_lanes
    source = tirx.decl_buffer((threads, rows, CHAINS, lanes), "float32", "source")
    out = tirx.decl_buffer((threads, CHAINS, lanes), "float32", "out")

    def task(t: Expr) -> Stmt:
        acc = Accumulators(CHAINS, lanes)

        def row(i: Expr) -> Stmt:
            return unrolled(
                CHAINS, lambda k: acc.set(k, acc.get(k) + vector_load(source, [t, i, k, 0], lanes))
            )

        body = loop(passes, lambda _: loop(rows, row, "row"), "pass")
        store = unrolled(CHAINS, lambda k: out.vstore([t, k, const(0)], acc.get(k)))
        return acc.allocate([*acc.fill(0.0), seq([body]), store])

    func = PrimFunc([source, out], parallel([threads], task, threads))
    return func.with_attrs({"tirx.noalias": True, "s_tir": True})


class Reading:
    """Reads an array of about `size` bytes repeatedly, spread over the threads."""

    def __init__(self, target: Target, threads: int, size: int) -> None:
        lanes = target.fp32_lanes
        rows = max(1, size // (threads * CHAINS * lanes * 4))
        shape = (threads, rows, CHAINS, lanes)
        array_bytes = 4 * int(np.prod(shape))
        passes = -(-SHOT_BYTES // array_bytes)
        self._kernel = _Kernel(_sums(target, threads, rows, passes), target)
        self._bytes = passes * array_bytes

    def __call__(self) -> float:
        """Billions of bytes a second."""
        return self._bytes / self._kernel.seconds() / 1e9


class BandwidthProbe:
    """Measures the read rates from the L2 cache, the L3 cache and memory, in some ten milliseconds.

    It sweeps the caches. `target` is the target to compile for, `here` describes this machine's caches; each thread is
    assumed to have its own L2 cache. Otherwise as `PeakProbe`.
    """

    def __init__(self, target: Target, here: Target, threads: int) -> None:
        self._l2, self._l3 = here.l2_bytes * threads, here.l3_bytes
        memory = min(max(2 * self._l3, 8 * self._l2, 64 << 20), LARGEST_BYTES)
        self._near = Reading(target, threads, self._l2 // 2)
        self._middle = (
            Reading(target, threads, max(self._l3 // 4, 2 * self._l2)) if self._l3 > 2 * self._l2 else None
        )
        self._far = Reading(target, threads, memory)

    def __call__(self) -> Bandwidth:
        """The current rates."""
        memory, l3 = self._far(), None
        if self._middle is not None:
            self._middle()  # loads its array into the cache
            l3 = self._middle()
        return Bandwidth(self._l2, self._l3, self._near(), l3, memory)


def probes(target: Target, threads: int) -> Machine:
    """Probes of this machine with the instructions of `target`, on a pool of `threads` threads."""
    set_threads(threads)
    reach = LOOP_REACHES if target.arch == "x86_64" else 0.0
    bandwidth = BandwidthProbe(target, detect(), threads)
    return Machine(SpeedProbe(target, threads), PeakProbe(target, threads), bandwidth, reach)
