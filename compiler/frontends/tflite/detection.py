"""TFLite_Detection_PostProcess: boxes from anchors, and the best of them without overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer
from edgec.compiler.frontends.tflite.registry import converts
from edgec.compiler.frontends.tflite.suppression import GONE, Rules, Selection, i64


@converts("TFLite_Detection_PostProcess", inputs=3, outputs=4)
def _detection_post_process(g: Writer, op: Operator) -> None:
    """Boxes, classes, scores and their number; what is behind the last detection is zero, as in the original.

    By default a box has its best classes, and suppresses others whatever theirs are; with `use_regular_nms`,
    each class is a detection of its own and suppresses those of the same class.
    """
    from flatbuffers import flexbuffers

    options: dict[str, Any] = flexbuffers.Loads(op.custom_options)
    if g.shape(op.inputs[0], 3)[0] != 1:
        raise Refused("its batch is larger than 1")
    boxes = _boxes(g, op, options)
    classes = int(options["num_classes"])
    offset = g.shape(op.inputs[1], 3)[2] - classes  # the background's score comes first
    scores = g.op("Reshape", g.get(op.inputs[1]), i64(-1, classes + offset))
    scores = g.op("Slice", scores, i64(offset), i64(offset + classes), i64(1))
    if options.get("use_regular_nms"):
        _by_class(g, op, options, boxes, scores, classes)
    else:
        _by_box(g, op, options, boxes, scores, classes)


def _by_box(g: Writer, op: Operator, options: dict[str, Any], boxes: str, scores: str, classes: int) -> None:
    each = min(int(options.get("max_classes_per_detection", 1)), classes)
    if each == 1:
        best = g.op("ReduceMax", scores, i64(1), keepdims=1)
        kinds = g.op("ArgMax", scores, axis=1, keepdims=1)
    else:
        best, kinds = g.op("TopK", scores, i64(each), outputs=2, axis=-1, largest=1, sorted=1)
    top = g.op("Squeeze", g.op("Slice", best, i64(0), i64(1), i64(1)), i64(1))
    places, values = Selection(g, boxes, _enough(g, top, options), _rules(options)).run()
    valid = g.op("Greater", values, GONE)
    # a box is repeated for each of its classes
    repeated = g.op("Expand", g.op("Unsqueeze", places, i64(1)), i64(1, each))
    repeated = g.op("Reshape", repeated, i64(-1))
    known = g.op("Reshape", g.op("Expand", g.op("Unsqueeze", valid, i64(1)), i64(1, each)), i64(-1))
    kinds, best = (g.op("Reshape", g.op("Gather", part, places, axis=0), i64(-1)) for part in (kinds, best))
    _write(g, op, g.op("Gather", boxes, repeated, axis=0), kinds, best, known)
    g.put(op.outputs[3], g.op("ReduceSum", g.op("Cast", valid, to=TensorProto.FLOAT), i64(0), keepdims=1))


def _by_class(
    g: Writer, op: Operator, options: dict[str, Any], boxes: str, scores: str, classes: int
) -> None:
    flat = g.op("Reshape", scores, i64(-1))
    most = int(options.get("detections_per_class", 100))
    rules = _rules(options, classes, most)
    places, values = Selection(g, boxes, _enough(g, flat, options), rules).run()
    found = g.op("Gather", boxes, g.op("Div", places, i64(classes)), axis=0)
    kinds = g.op("Mod", places, i64(classes))
    valid = g.op("Greater", values, GONE)
    _write(g, op, found, kinds, values, valid)
    g.put(op.outputs[3], g.op("ReduceSum", g.op("Cast", valid, to=TensorProto.FLOAT), i64(0), keepdims=1))


def _rules(options: dict[str, Any], classes: int = 1, most: int = 1) -> Rules:
    overlap = float(options["nms_iou_threshold"])
    return Rules(int(options["max_detections"]), overlap, classes=classes, most_of_class=most)


def _enough(g: Writer, scores: str, options: dict[str, Any]) -> str:
    enough = g.op("GreaterOrEqual", scores, np.array(options["nms_score_threshold"], np.float32))
    return str(g.op("Where", enough, scores, GONE))


def _write(g: Writer, op: Operator, boxes: str, kinds: str, scores: str, valid: str) -> None:
    known = g.op("Cast", valid, to=TensorProto.FLOAT)
    nothing = np.array(0, np.float32)
    kinds = g.op("Mul", g.op("Cast", kinds, to=TensorProto.FLOAT), known)
    outputs = [
        g.op("Mul", boxes, g.op("Unsqueeze", known, i64(1))),
        kinds,
        g.op("Where", valid, scores, nothing),
    ]
    for index, name in zip(op.outputs, outputs, strict=False):
        g.put(index, g.op("Unsqueeze", name, i64(0)))


def _boxes(g: Writer, op: Operator, options: dict[str, Any]) -> str:
    """Corners `[anchors, (y0, x0, y1, x1)]` from offsets `(y, x, h, w)` and anchors of the same kind."""
    scales = np.array([options[f"{axis}_scale"] for axis in "yxhw"], np.float32)
    codes = g.op("Reshape", g.get(op.inputs[0]), i64(-1, 4))
    codes = g.op("Div", codes, scales[None])
    anchors = g.real(op.inputs[2]).reshape(-1, 4)
    centre = g.op("Mul", g.op("Slice", codes, i64(0), i64(2), i64(1)), anchors[:, 2:].copy())
    centre = g.op("Add", centre, anchors[:, :2].copy())
    half = g.op("Exp", g.op("Slice", codes, i64(2), i64(4), i64(1)))
    half = g.op("Mul", half, anchors[:, 2:] * np.float32(0.5))
    return str(g.op("Concat", g.op("Sub", centre, half), g.op("Add", centre, half), axis=1))
