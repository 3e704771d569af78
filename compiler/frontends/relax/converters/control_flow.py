"""If, Loop and Scan: both branches and a select, and bodies unrolled once per iteration."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto
from tvm import relax

from edgec.compiler.frontends.onnx.fixed_point_lstm import recognised
from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.fixed_point_lstm import fixed_point_lstm, stands_for_layer
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts,
    dtype_of,
    is_constant,
    reshaped,
    shape_of,
    value_of,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced

MOST_ITERATIONS = 64  # unrolled further, the code becomes too large to ship
MOST_UNROLLED = 512  # nodes of all iterations together
# Both branches are computed, and one is selected, where they have no more than this many nodes that are all cheap: a
# branch of the program would cost as much.
MOST_SELECTED = 6
CHEAP = frozenset(
    {
        "Abs",
        "Add",
        "Cast",
        "Clip",
        "Constant",
        "Div",
        "Equal",
        "Greater",
        "Identity",
        "Less",
        "Max",
        "Min",
        "Mul",
    }
    | {"Neg", "Not", "Relu", "Reshape", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where"}
)


def _work(graph: GraphProto) -> int:
    """The nodes of a branch; many where one of them is more than arithmetic on elements."""
    return sum(1 if node.op_type in CHEAP else MOST_SELECTED + 1 for node in graph.node)


@converts("If")
def _if(node: Node) -> list[Expr]:
    condition = node.input(0)
    branches = [node.attrs["then_branch"], node.attrs["else_branch"]]
    if is_constant(condition):
        taken = branches[0] if bool(value_of(condition).reshape(-1)[0]) else branches[1]
        return list(node.scope.graph(taken, []))
    if sum(map(_work, branches)) > MOST_SELECTED:
        raise CannotConvert("its branches are not computed both")
    yes, no = (node.scope.graph(branch, []) for branch in branches)
    choice = node.emit(reshaped(condition, []))
    chosen = []
    for a, b in zip(yes, no, strict=True):
        if shape_of(a) != shape_of(b) or dtype_of(a) != dtype_of(b):
            raise CannotConvert("its branches return tensors of different shapes or types")
        chosen.append(node.emit(relax.op.where(choice, a, b)))
    return chosen


@converts("Loop")
def _loop(node: Node) -> list[Expr]:
    body = node.attrs["body"]
    if not node.has(0) or not is_constant(node.input(0)):
        raise CannotConvert("its number of iterations depends on the data")
    if node.has(1) and not (is_constant(node.input(1)) and bool(value_of(node.input(1)).all())):
        raise CannotConvert("whether it runs at all depends on the data")
    count = int(value_of(node.input(0)).reshape(-1)[0])
    if not 0 < count <= MOST_ITERATIONS:
        raise CannotConvert(
            f"it runs {count} times; only loops of 1 to {MOST_ITERATIONS} iterations are unrolled"
        )
    if count * len(body.node) > MOST_UNROLLED:
        raise CannotConvert(f"it runs {count} times, which is too much to unroll")
    state = [node.input(i) for i in range(2, len(node.inputs))]
    stacked: list[list[Expr]] = [[] for _ in range(len(node.outputs) - len(state))]
    goes_on = constant(True, "bool")
    for iteration in range(count):
        results = node.scope.graph(body, [constant(iteration, "int64"), goes_on, *state])
        if not results[0].same_as(goes_on) and not (is_constant(results[0]) and value_of(results[0]).all()):
            raise CannotConvert("when it ends depends on the data")
        state = results[1 : 1 + len(state)]
        for rows, value in zip(stacked, results[1 + len(state) :], strict=True):
            rows.append(value)
    return [*state, *(node.emit(_stack(rows, 0)) for rows in stacked)]


@converts("Scan")
def _scan(node: Node) -> list[Expr]:
    if node.opset < 9:
        raise CannotConvert("Scan of opset 8 is not compiled")
    body, scanned = node.attrs["body"], int(node.attrs["num_scan_inputs"])
    layer = recognised(body) if stands_for_layer(node) else None
    if layer is not None:
        return fixed_point_lstm(node, layer)
    states = len(node.inputs) - scanned
    state = [node.input(i) for i in range(states)]
    axes = [int(a) for a in node.attrs.get("scan_input_axes") or [0] * scanned]
    backwards = [bool(d) for d in node.attrs.get("scan_input_directions") or [0] * scanned]
    count = node.shape(states)[axes[0]]
    if not 0 < count <= MOST_ITERATIONS:
        raise CannotConvert(f"it runs {count} times; only scans of 1 to {MOST_ITERATIONS} steps are unrolled")
    rows: list[list[Expr]] = [[] for _ in range(len(node.outputs) - states)]
    for step in range(count):
        taken = [
            _pick(node, node.input(states + i), axes[i], count - 1 - step if backwards[i] else step)
            for i in range(scanned)
        ]
        results = node.scope.graph(body, [*state, *taken])
        state = results[:states]
        for collected, value in zip(rows, results[states:], strict=True):
            collected.append(value)
    out_axes = [int(a) for a in node.attrs.get("scan_output_axes") or [0] * len(rows)]
    flipped = [bool(d) for d in node.attrs.get("scan_output_directions") or [0] * len(rows)]
    stacked = [
        node.emit(_stack(collected[::-1] if flip else collected, axis))
        for collected, axis, flip in zip(rows, out_axes, flipped, strict=True)
    ]
    return [*state, *stacked]


def _stack(rows: list[Expr], axis: int) -> Expr:
    shape = list(shape_of(rows[0]))
    if any(list(shape_of(row)) != shape for row in rows):
        raise CannotConvert("the sizes of its results change from one iteration to the next")
    axis = axis % (len(shape) + 1)
    wide = [reshaped(row, [*shape[:axis], 1, *shape[axis:]]) for row in rows]
    return wide[0] if len(wide) == 1 else relax.op.concat(wide, axis)


def _pick(node: Node, x: Expr, axis: int, at: int) -> Expr:
    shape = list(shape_of(x))
    axis = axis % len(shape)
    part = node.emit(sliced(node, x, {axis: slice(at, at + 1)}))
    return node.emit(reshaped(part, [int(s) for s in np.delete(shape, axis)]))
