"""Random graphs: the values that they begin with, and how many steps of which kind they have."""

from __future__ import annotations

import numpy as np

from tests.compiler.random_graphs import layers, steps
from tests.compiler.random_graphs.drawing import Drawing, Drawn, Rejected, finished
from tests.compiler.samples.sample import Draw

OPSETS = (11, 13, 14, 16, 17, 18, 20, 21)
STEPS = steps.STEPS
NAMES = sorted(STEPS)
CONTROL = ("branches", "repeated", "sequence", "counted")
assert layers.STEPS is STEPS  # its steps are registered


def drawn(seed: int, number: int) -> Drawn:
    """Graph `number` of a seed: the same every time."""
    draw = Draw("graphs", seed, number)
    g = Drawing(draw, draw.pick(OPSETS))
    for _ in range(draw.within(1, 2)):
        g.given(_begin(draw))
    favoured = [draw.pick(NAMES) for _ in range(4)]
    wanted = draw.within(3, 12)
    for _ in range(wanted * 8):
        name = draw.pick(favoured) if draw.chance(0.6) else draw.pick(NAMES)
        before = (list(g.nodes), dict(g.values), dict(g.shadows), list(g.inputs), list(g.constants))
        try:
            STEPS[name](g)
        except Rejected:
            g.nodes, g.values, g.shadows, g.inputs, g.constants = before
        if len(g.nodes) >= wanted:
            break
    if not g.nodes:
        g.add("Identity", g.inputs[:1])
    return finished(g)


def _begin(draw: Draw) -> np.ndarray:
    """An input: a picture, a sequence, a matrix, a vector, some numbers."""
    kind = draw.pick(("picture", "picture", "sequence", "matrix", "vector", "scalar", "volume", "integers"))
    dtype = draw.pick(steps.FLOATING) if draw.chance(0.4) else "float32"
    if kind == "picture":
        size = draw.within(2, 9)
        shape = [draw.pick((1, 1, 2, 3)), draw.pick(layers.CHANNELS), size, size + draw.pick((0, 0, 1, 3))]
    elif kind == "volume":
        shape = [1, draw.pick((1, 2, 4)), *draw.many(3, 2, 4)]
    elif kind == "integers":
        return draw.integers(draw.shape(0, 3), draw.pick(("int64", "int32")), -9, 9)
    else:
        ranks = {"sequence": 3, "matrix": 2, "vector": 1, "scalar": 0}
        shape = draw.many(ranks[kind], 1, 9)
    return draw.reals(shape, dtype)
