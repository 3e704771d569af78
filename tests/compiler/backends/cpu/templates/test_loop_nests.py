"""Loops over threads: every step once, in shares that differ by a step at most."""

import operator

import numpy as np
from tvm import tirx
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.templates.loop_nests import SHARES, const, loop, parallel, seq
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE, run

EXTENTS = ((2,), (9,), (7, 3), (28,), (3, 5, 2), (130, 2))
THREADS = 2


def test_a_loop_over_threads_runs_every_step_once_in_equal_shares():
    sizes = [int(np.prod(extents)) for extents in EXTENTS]
    out = tirx.decl_buffer((sum(sizes), 3), "float32", "out")

    def loops(extents, start):
        def body(*at):
            place = const(0)
            for size, i in zip(extents, at, strict=True):
                place = place * const(size) + i

            def inner(column):  # begins where the step says
                value = place.astype("float32") + tirx.const(1, "float32")
                return tirx.BufferStore(out, value, [place + const(start), column - place])

            return loop(const(3), inner, start=place)

        return parallel(extents, body, THREADS)

    made = [loops(extents, sum(sizes[:k])) for k, extents in enumerate(EXTENTS)]
    kernel = PrimFunc([out], seq(made)).with_attrs({"tirx.noalias": True, "s_tir": True})
    found = run(kernel, load_target(RUNNABLE[-1]))
    wanted = np.concatenate([np.arange(size) for size in sizes]) + 1
    np.testing.assert_array_equal(found, np.stack([wanted] * 3, axis=1).astype(np.float32))
    for size, nest in zip(sizes[:5], made[:5], strict=True):  # longer ones are cut by the launch
        steps = [step_count(nest, piece) for piece in range(SHARES * THREADS)]
        shares = [sum(steps[k * SHARES : (k + 1) * SHARES]) for k in range(THREADS)]
        assert sum(shares) == size
        assert max(shares) - min(shares) <= 1


def step_count(nest, piece):
    """The steps of one piece of a loop."""
    operators = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "FloorDiv": operator.floordiv}

    def value(expr):
        if isinstance(expr, tirx.Var):
            return piece
        if isinstance(expr, tirx.IntImm):
            return int(expr)
        return operators[type(expr).__name__](value(expr.a), value(expr.b))

    return value(nest.body.extent)
