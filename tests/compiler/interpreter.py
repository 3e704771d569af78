"""What random programs mean, in numpy: of what could tell, ONNX Runtime crashes on some, and the evaluator is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

Values = dict[str, Any]


def outputs_of(model: ModelProto, inputs: Values) -> Values:
    """The outputs of a model by name."""
    return dict(zip([v.name for v in model.graph.output], run(model.graph, inputs, {}), strict=True))


def run(graph: GraphProto, given: Values, outer: Values) -> list[Any]:
    """The outputs of a graph."""
    known = outer | {t.name: numpy_helper.to_array(t) for t in graph.initializer} | given
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [known[name] if name else None for name in node.input]
        made = CONTROL[node.op_type](node, attributes, inputs, known) if node.op_type in CONTROL else None
        results = made if made is not None else [OPERATORS[node.op_type](attributes, *inputs)]
        known |= dict(zip(node.output, results, strict=True))
    return [known[value.name] for value in graph.output]


def _if(_node: NodeProto, a: Values, inputs: list[Any], known: Values) -> list[Any]:
    return run(a["then_branch"] if bool(inputs[0]) else a["else_branch"], {}, known)


def _loop(node: NodeProto, a: Values, inputs: list[Any], known: Values) -> list[Any]:
    body, limit, state = a["body"], inputs[0], inputs[2:]
    going = inputs[1] is None or bool(inputs[1])
    rows: list[list[Any]] = [[] for _ in node.output[len(state) :]]
    number = 0
    while going and (limit is None or number < int(limit)):
        names = [value.name for value in body.input]
        arguments = [np.int64(number), np.bool_(going), *state]
        results = run(body, dict(zip(names, arguments, strict=True)), known)
        going, state = bool(results[0]), results[1 : 1 + len(state)]
        for collected, row in zip(rows, results[1 + len(state) :], strict=True):
            collected.append(row)
        number += 1
    return [*state, *(np.stack(r) if r else np.zeros((0, 3), "float32") for r in rows)]


def _scan(_node: NodeProto, a: Values, inputs: list[Any], known: Values) -> list[Any]:
    body, (state, x) = a["body"], inputs
    backwards = (a.get("scan_input_directions") or [0])[0]
    names = [value.name for value in body.input]
    rows = []
    for row in x[::-1] if backwards else x:
        state, made = run(body, dict(zip(names, [state, row], strict=True)), known)
        rows.append(made)
    return [state, np.stack(rows)]


def _slice(_: Values, x: Any, starts: Any, ends: Any, axes: Any, steps: Any = None) -> Any:
    step = 1 if steps is None else int(steps[0])
    return x[slice(int(starts[0]), int(ends[0]), step)]


def _insert(_: Values, rows: list[Any], tensor: Any, place: Any = None) -> list[Any]:
    made = list(rows)
    made.insert(
        len(made) if place is None else int(place) % len(made) if int(place) < 0 else int(place), tensor
    )
    return made


CONTROL: dict[str, Callable[..., list[Any]]] = {"If": _if, "Loop": _loop, "Scan": _scan}
OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": lambda _, x: np.abs(x),
    "Add": lambda _, x, y: x + y,
    "Cast": lambda a, x: x.astype(helper.tensor_dtype_to_np_dtype(a["to"])),
    "Concat": lambda _, *parts: np.concatenate(parts),
    "ConcatFromSequence": lambda _, rows: np.concatenate(rows),
    "Greater": lambda _, x, y: x > y,
    "Identity": lambda _, x: x,
    "Less": lambda _, x, y: x < y,
    "MatMul": lambda _, x, y: x @ y,
    "Neg": lambda _, x: -x,
    "Range": lambda _, first, end, step: np.arange(first, end, step),
    "ReduceMean": lambda a, x: x.mean(
        tuple(a["axes"]) if "axes" in a else None, keepdims=bool(a.get("keepdims", 1))
    ),
    "ReduceSum": lambda a, x: x.sum(keepdims=bool(a.get("keepdims", 1))),
    "Relu": lambda _, x: np.maximum(x, 0),
    "Reshape": lambda _, x, shape: x.reshape(tuple(shape)),
    "SequenceAt": lambda _, rows, place: rows[int(place)],
    "SequenceInsert": _insert,
    "Sigmoid": lambda _, x: 1 / (1 + np.exp(-x)),
    "Slice": _slice,
    "SplitToSequence": lambda _, x: [x[i : i + 1] for i in range(len(x))],
    "Tanh": lambda _, x: np.tanh(x),
}
