"""The machine's highest fp32 rate, measured by a kernel of our own."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from edgec.compiler.kernels.emit import Accumulators, Expr, const, loop, parallel, seq, unrolled, vector_load
from edgec.compiler.tuning.measure import build
from edgec.compiler.tuning.tuner import set_threads
from edgec.targets.target import Target

STEPS = 20_000


def _kernel(target: Target, threads: int) -> PrimFunc:
    """Chains of multiply-adds on registers only; as many as hide the latency of two units."""
    lanes = target.fp32_lanes
    count = min(24, target.vector_registers - 4)
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


def fp32_peak_gflops(target: Target, threads: int) -> float:
    """Billions of fp32 operations a second with `threads` threads (a multiply-add counts as two).

    Requires that this machine runs code for `target`.
    """
    set_threads(threads)
    func = _kernel(target, threads)
    module = build(func, tvm.target.Target(dict(target.tvm)))
    lanes, count = target.fp32_lanes, int(func.params[1].ty.shape[1])
    source = tvm.runtime.tensor(np.full((2, lanes), 0.5, np.float32))
    out = tvm.runtime.tensor(np.zeros((threads, count, lanes), np.float32))
    timed = module.time_evaluator("kernel", tvm.cpu(), number=3, repeat=20)(source, out)
    return 2.0 * STEPS * count * lanes * threads / float(min(timed.results)) / 1e9
