"""TFLite_Detection_PostProcess: boxes from anchors, and the best of them without overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts

MAX_DETECTIONS = 100  # each is a round of selection in the compiled code


@converts("TFLite_Detection_PostProcess")
def _detection_post_process(g: Writer, op: Operator) -> None:
    """Greedy suppression over the best class of each anchor, a fixed number of rounds long.

    Each round selects the anchor with the highest score and suppresses all that overlap it. Scores below the
    threshold never count; rounds without a candidate return zeros, as the original does.
    """
    from flatbuffers import flexbuffers

    options: dict[str, Any] = flexbuffers.Loads(op.custom_options)
    if options.get("use_regular_nms"):
        raise Refused("it suppresses overlaps class by class (use_regular_nms)")
    if options.get("max_classes_per_detection", 1) != 1:
        raise Refused("it returns several classes per box (max_classes_per_detection)")
    rounds = int(options["max_detections"])
    if not 1 <= rounds <= MAX_DETECTIONS:
        raise Refused(f"it requests {rounds} detections, and at most {MAX_DETECTIONS} are compiled")
    if g.tensor(op.inputs[0]).shape[0] != 1:
        raise Refused("its batch is larger than 1")
    anchors = g.tensor(op.inputs[2]).shape[0]
    boxes = _boxes(g, op, options)
    classes = int(options["num_classes"])
    offset = g.tensor(op.inputs[1]).shape[2] - classes  # the background's score comes first
    scores = g.op("Reshape", g.get(op.inputs[1]), np.array([-1, classes + offset], np.int64))
    scores = g.op("Slice", scores, _i([offset]), _i([offset + classes]), _i([1]))
    best = g.op("ReduceMax", scores, _i([1]), keepdims=0)
    kinds = g.op("Cast", g.op("ArgMax", scores, axis=1, keepdims=0), to=TensorProto.FLOAT)
    threshold = float(options["nms_score_threshold"])
    enough = g.op("GreaterOrEqual", best, np.array(threshold, np.float32))
    left = g.op("Where", enough, best, np.array(-1, np.float32))
    rows = g.op("Concat", boxes, g.op("Unsqueeze", kinds, _i([1])), axis=1)
    found, values = _choose(g, rows, boxes, left, anchors, rounds, float(options["nms_iou_threshold"]))
    valid = g.op("Cast", g.op("Greater", values, np.array(-1, np.float32)), to=TensorProto.FLOAT)
    found = g.op("Mul", found, g.op("Unsqueeze", valid, _i([1])))
    outputs = [
        g.op("Unsqueeze", g.op("Slice", found, _i([0]), _i([4]), _i([1])), _i([0])),
        g.op("Reshape", g.op("Slice", found, _i([4]), _i([5]), _i([1])), _i([1, rounds])),
        g.op("Reshape", g.op("Mul", values, valid), _i([1, rounds])),
        g.op("ReduceSum", valid, _i([0]), keepdims=1),
    ]
    for index, name in zip(op.outputs, outputs, strict=False):
        g.put(index, name)


def _i(values: list[int]) -> Array:
    return np.array(values, np.int64)


def _boxes(g: Writer, op: Operator, options: dict[str, Any]) -> str:
    """Corners `[anchors, (y0, x0, y1, x1)]` from offsets `(y, x, h, w)` and anchors of the same kind."""
    scales = np.array([options[f"{axis}_scale"] for axis in "yxhw"], np.float32)
    codes = g.op("Reshape", g.get(op.inputs[0]), _i([-1, 4]))
    codes = g.op("Div", codes, scales[None])
    anchors = g.real(op.inputs[2]).reshape(-1, 4)
    centre = g.op("Mul", g.op("Slice", codes, _i([0]), _i([2]), _i([1])), anchors[:, 2:].copy())
    centre = g.op("Add", centre, anchors[:, :2].copy())
    half = g.op("Exp", g.op("Slice", codes, _i([2]), _i([4]), _i([1])))
    half = g.op("Mul", half, anchors[:, 2:] * np.float32(0.5))
    return str(g.op("Concat", g.op("Sub", centre, half), g.op("Add", centre, half), axis=1))


def _choose(
    g: Writer, rows: str, boxes: str, left: str, anchors: int, rounds: int, overlap: float
) -> tuple[str, str]:
    """The chosen rows `[rounds, 5]` and their scores `[rounds]`, -1 where nothing was left."""
    low = g.op("Slice", boxes, _i([0]), _i([2]), _i([1]))
    high = g.op("Slice", boxes, _i([2]), _i([4]), _i([1]))
    area = g.op("ReduceProd", g.op("Sub", high, low), _i([1]), keepdims=0)
    places = np.arange(anchors)
    chosen, values = [], []
    for _ in range(rounds):
        at = g.op("ArgMax", left, axis=0, keepdims=1)
        row = g.op("Gather", rows, at, axis=0)
        chosen.append(row)
        values.append(g.op("Gather", left, at, axis=0))
        own_low = g.op("Slice", row, _i([0]), _i([2]), _i([1]))
        own_high = g.op("Slice", row, _i([2]), _i([4]), _i([1]))
        side = g.op("Relu", g.op("Sub", g.op("Min", high, own_high), g.op("Max", low, own_low)))
        shared = g.op("ReduceProd", side, _i([1]), keepdims=0)
        both = g.op("Sub", g.op("Add", area, g.op("Gather", area, at, axis=0)), shared)
        over = g.op("Greater", shared, g.op("Mul", both, np.array(overlap, np.float32)))
        left = g.op("Where", over, np.array(-1, np.float32), left)
        mask = g.op("Equal", places, at)
        left = g.op("Where", mask, np.array(-1, np.float32), left)
    return str(g.op("Concat", *chosen, axis=0)), str(g.op("Concat", *values, axis=0))
