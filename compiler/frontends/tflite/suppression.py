"""Greedy suppression of overlapping boxes, a fixed number of rounds long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts

MOST_ROUNDS = 200  # each is compiled code of its own
GONE = np.array(-3e38, np.float32)  # the score of what cannot be selected


def i64(*values: int) -> Array:
    """A small array of integers."""
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Rules:
    """How boxes suppress each other.

    Attributes:
        rounds: how many are selected at most.
        overlap: the share (intersection over union) from which a box is suppressed.
        or_equal: whether boxes of exactly this share are.
        threshold: scores up to it are never selected; None where scores are filtered before.
        sigma: of the soft variant, which lowers the scores of all that overlap; 0 for none.
        classes: how many classes suppress apart from each other.
        most_of_class: how many boxes of one class are selected at most.
    """

    rounds: int
    overlap: float
    or_equal: bool = False
    threshold: float | None = None
    sigma: float = 0.0
    classes: int = 1
    most_of_class: int = MOST_ROUNDS


class Selection:
    """Selects boxes round by round.

    Args:
        boxes: corners `[boxes, (low, low, high, high)]`.
        scores: `[boxes · classes]`, GONE where a box cannot be selected.
    """

    def __init__(self, g: Writer, boxes: str, scores: str, rules: Rules) -> None:
        if not 1 <= rules.rounds <= MOST_ROUNDS:
            raise Refused(f"it selects {rules.rounds} boxes; up to {MOST_ROUNDS} are compiled")
        self._g, self._boxes, self._left, self._rules = g, boxes, scores, rules
        self._low = g.op("Slice", boxes, i64(0), i64(2), i64(1))
        self._high = g.op("Slice", boxes, i64(2), i64(4), i64(1))
        self._area = g.op("ReduceProd", g.op("Sub", self._high, self._low), i64(1), keepdims=0)
        self._taken = g.constant(np.zeros(rules.classes, np.int64))

    def run(self) -> tuple[str, str]:
        """The positions in the scores that were selected and their scores, `[rounds]`; GONE where none was left."""
        g = self._g
        places, values = [], []
        for _ in range(self._rules.rounds):
            at = g.op("ArgMax", self._left, axis=0, keepdims=1)
            places.append(at)
            values.append(g.op("Gather", self._left, at, axis=0))
            self._suppress(at)
        if len(places) == 1:
            return places[0], values[0]
        return g.op("Concat", *places, axis=0), g.op("Concat", *values, axis=0)

    def _suppress(self, at: str) -> None:
        g, rules, count = self._g, self._rules, self._rules.classes
        box = at if count == 1 else g.op("Div", at, i64(count))
        shared, union = self._shared(box)
        limit = g.op("Mul", union, np.array(rules.overlap, np.float32))
        over = g.op("GreaterOrEqual" if rules.or_equal else "Greater", shared, limit)
        if rules.or_equal:  # boxes without an area overlap nothing
            over = g.op("And", over, g.op("Greater", union, np.array(0, np.float32)))
        if count > 1:
            over = self._of_class(over, g.op("Mod", at, i64(count)))
        if rules.sigma > 0:
            self._lower(shared, union)
        self._left = g.op("Where", over, GONE, self._left)
        itself = g.op("Equal", g.op("Range", *self._range()), at)
        self._left = g.op("Where", itself, GONE, self._left)

    def _range(self) -> list[Array | str]:
        size = self._g.op("Squeeze", self._g.op("Shape", self._left), i64(0))
        return [np.array(0, np.int64), size, np.array(1, np.int64)]

    def _shared(self, box: str) -> tuple[str, str]:
        """The areas that each box and the selected one share and cover."""
        g = self._g
        row = g.op("Gather", self._boxes, box, axis=0)
        own_low = g.op("Slice", row, i64(0), i64(2), i64(1))
        own_high = g.op("Slice", row, i64(2), i64(4), i64(1))
        side = g.op("Relu", g.op("Sub", g.op("Min", self._high, own_high), g.op("Max", self._low, own_low)))
        shared = g.op("ReduceProd", side, i64(1), keepdims=0)
        both = g.op("Add", self._area, g.op("Gather", self._area, box, axis=0))
        return shared, g.op("Sub", both, shared)

    def _of_class(self, over: str, kind: str) -> str:
        """What is suppressed, `[boxes · classes]`: boxes of the same class, or all of a class that is full."""
        g, rules = self._g, self._rules
        same = g.op("Equal", np.arange(rules.classes, dtype=np.int64), kind)
        self._taken = g.op("Add", self._taken, g.op("Cast", same, to=TensorProto.INT64))
        full = g.op("GreaterOrEqual", self._taken, i64(rules.most_of_class))
        wide = g.op("And", g.op("Unsqueeze", over, i64(1)), g.op("Unsqueeze", same, i64(0)))
        return str(g.op("Reshape", g.op("Or", wide, full), i64(-1)))

    def _lower(self, shared: str, union: str) -> None:
        g, rules = self._g, self._rules
        empty = g.op("Equal", union, np.array(0, np.float32))
        share = g.op("Where", empty, np.array(0, np.float32), g.op("Div", shared, union))
        factor = g.op("Exp", g.op("Mul", g.op("Mul", share, share), np.array(-0.5 / rules.sigma, np.float32)))
        lowered = g.op("Mul", self._left, factor)
        keep = g.op("Greater", lowered, np.array(rules.threshold or 0.0, np.float32))
        self._left = g.op("Where", keep, lowered, GONE)


@converts("NON_MAX_SUPPRESSION_V4", inputs=5, outputs=2)
@converts("NON_MAX_SUPPRESSION_V5", inputs=6, outputs=3)
def _non_max_suppression(g: Writer, op: Operator) -> None:
    """Positions of boxes `[count]`, with zeros behind those that were selected, and how many these are."""
    rounds = g.ints(op.inputs[2])[0]
    overlap, threshold = (float(g.real(op.inputs[k]).reshape(-1)[0]) for k in (3, 4))
    sigma = float(g.real(op.inputs[5]).reshape(-1)[0]) if len(op.inputs) > 5 else 0.0
    if g.shape(op.inputs[0], 2)[1] != 4:
        raise Refused("its boxes do not have 4 corners")
    boxes = g.get(op.inputs[0])
    ends = [g.op("Slice", boxes, i64(a), i64(a + 2), i64(1)) for a in (0, 2)]
    corners = g.op("Concat", g.op("Min", *ends), g.op("Max", *ends), axis=1)
    scores = g.get(op.inputs[1])
    enough = g.op("Greater", scores, np.array(threshold, np.float32))
    left = g.op("Where", enough, scores, GONE)
    rules = Rules(rounds, overlap, or_equal=True, threshold=threshold, sigma=sigma)
    places, values = Selection(g, corners, left, rules).run()
    valid = g.op("Greater", values, GONE)
    count = g.op("ReduceSum", g.op("Cast", valid, to=TensorProto.INT32), i64(0), keepdims=0)
    found = g.op("Where", valid, g.op("Cast", places, to=TensorProto.INT32), np.array(0, np.int32))
    if len(op.outputs) == 3:
        g.put(op.outputs[1], g.op("Where", valid, values, np.array(0, np.float32)))
    g.put(op.outputs[0], found)
    g.put(op.outputs[-1], count)
