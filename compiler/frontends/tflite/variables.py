"""Resource variables (VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE, CALL_ONCE) as inputs and outputs of the ONNX graph.

A variable is the last value that was assigned to it. One that is read before the graph assigns to it is a state: its
value before is an input of the graph, its last value an output. What it begins with is what the graph that CALL_ONCE
names assigns to it. A variable that no other graph assigns to is a constant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ValueInfoProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS, open_session
from edgec.compiler.frontends.source import State
from edgec.compiler.frontends.tflite.flat import Model, Operator
from edgec.compiler.frontends.tflite.graph import Array, Refused, Variable, Writer, is_quantised
from edgec.compiler.frontends.tflite.registry import convert_operators, converts

HANDLE = "variable:"  # begins the value of a handle, which is no tensor
NEXT = ".next"
MEMORY = "tensor:"  # begins the key of a layer's memory


def ports(
    g: Writer, taken: Collection[str]
) -> tuple[list[ValueInfoProto], list[ValueInfoProto], list[State]]:
    """The inputs and outputs that the variables of a converted graph become; nodes for the outputs are appended.

    Args:
        taken: names of the graph's other inputs and outputs, which differ from those of variables (see `named`).
    """
    inputs, outputs, states = [], [], []
    for variable in g.variables.values():
        if not variable.port:
            continue
        made = variable.port + NEXT
        while made in taken:
            made += "_"
        assert variable.tensor is not None
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(variable.tensor.dtype))
        inputs.append(helper.make_tensor_value_info(variable.port, kind, _shape(variable)))
        outputs.append(helper.make_tensor_value_info(made, kind, None))
        g.nodes.append(helper.make_node("Identity", [variable.value], [made], name=f"variable/{made}"))
        states.append(State(variable.port, made, variable.initial, "variable"))
    return inputs, outputs, states


def _shape(variable: Variable) -> tuple[int, ...]:
    if variable.initial is not None:
        return tuple(variable.initial.shape)
    assert variable.tensor is not None
    return variable.tensor.shape


def has_variables(stored: Model) -> bool:
    """Whether a file's graphs have variables, or steps of layers with a memory."""
    kinds = {op.kind for graph in stored.graphs for op in graph.operators}
    return bool(kinds & {"VAR_HANDLE", "SVDF", "RNN", "LSTM"})


def carried(g: Writer, index: int) -> str:
    """The memory of a layer before its step, a tensor that the file marks as a variable: real numbers.

    Elsewhere than in the main graph, it is zero in each step.
    """
    tensor = g.tensor(index)
    if not tensor.variable or len(g.calls) > 1:
        return g.constant(np.zeros(tensor.shape, np.float32))
    name = named(g, tensor.name)
    while name in g.variables:
        name += "_"
    beginning = (
        int(tensor.quantisation.zero_point[0]) if tensor.quantisation and tensor.dtype == "int8" else 0
    )
    initial = np.full(tensor.shape, beginning, tensor.dtype)
    g.variables[f"{MEMORY}{index}"] = Variable(name, initial, name, tensor, port=name)
    _put_stored(g, index, name)
    return g.get(index)


def carry(g: Writer, index: int, value: str) -> None:
    """Set the memory of a layer after its step, to real numbers."""
    variable = g.variables.get(f"{MEMORY}{index}")
    if variable is None:
        return
    g.put(index, value)
    variable.value, variable.assigned = g.integers(index), True


def values(g: Writer) -> dict[str, str]:
    """The present values of all variables, by name."""
    return {variable.name: variable.value for variable in g.variables.values()}


def restore(g: Writer, before: Mapping[str, str]) -> None:
    """Set all variables back to the values that they had before a branch."""
    for variable in g.variables.values():
        variable.value = before.get(variable.name) or variable.port


def changed(g: Writer, after: Sequence[Mapping[str, str]]) -> list[Variable]:
    """The variables that some branch assigned to; each has a value before.

    Args:
        after: the values after each branch, from whose effects the variables were restored.
    """
    found = [v for v in g.variables.values() if any(one.get(v.name, v.value) != v.value for one in after)]
    # a branch that read it first left it at its port
    found = [v for v in found if any(one.get(v.name) not in ("", None, v.value, v.port) for one in after)]
    for variable in found:
        _begin(g, variable)
    return found


def require_same(g: Writer, before: Mapping[str, str]) -> None:
    """Check that a condition or a branch assigned to no variable.

    Raises:
        Refused: it did.
    """
    for variable in g.variables.values():
        if variable.value not in (before.get(variable.name, ""), variable.port, ""):
            raise Refused(f"a graph that it calls assigns to the variable {variable.name!r}")


def typed(variable: Variable, value: str, *, fixed: bool = False) -> ValueInfoProto:
    """The declaration of a value of a variable, with its shape if that is fixed."""
    assert variable.tensor is not None
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(variable.tensor.dtype))
    return helper.make_tensor_value_info(value, kind, _shape(variable) if fixed else None)


@converts("VAR_HANDLE", inputs=0, outputs=1)
def _handle(g: Writer, op: Operator) -> None:
    parts = [getattr(op.options, part, None) or b"" for part in ("container", "sharedName")]
    name = "/".join(_text(part) for part in parts if part) or f"variable_{op.index}"
    g.variables.setdefault(name, Variable(name))
    g.native[op.outputs[0]] = HANDLE + name


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _variable(g: Writer, index: int) -> Variable:
    name = g.get(index)
    if not name.startswith(HANDLE):
        raise Refused(f"its tensor {g.tensor(index).name!r} is no handle of a variable")
    return g.variables[name.removeprefix(HANDLE)]


@converts("READ_VARIABLE", inputs=1, outputs=1)
def _read(g: Writer, op: Operator) -> None:
    variable, tensor = _variable(g, op.inputs[0]), g.tensor(op.outputs[0])
    variable.tensor = variable.tensor or tensor
    _begin(g, variable)
    _put_stored(g, op.outputs[0], variable.value)


def _begin(g: Writer, variable: Variable) -> None:
    """Give a variable the value that it has before the run, unless it has one."""
    if variable.value:
        return
    if variable.initial is None:
        raise Refused(f"the variable {variable.name!r} is read before anything is assigned to it")
    if _assigned_later(g, variable.name):
        variable.port = variable.value = named(g, variable.name)
    else:
        variable.value = g.constant(variable.initial)


@converts("ASSIGN_VARIABLE", inputs=2, outputs=0)
def _assign(g: Writer, op: Operator) -> None:
    variable = _variable(g, op.inputs[0])
    variable.value, variable.assigned = g.integers(op.inputs[1]), True
    variable.tensor = variable.tensor or g.tensor(op.inputs[1])


@converts("CALL_ONCE", inputs=0, outputs=0)
def _call_once(g: Writer, op: Operator) -> None:
    number = int(op.options.initSubgraphIndex)
    inner = Writer(g.model, number)
    failed = convert_operators(inner, f"once_{number}")
    if failed:
        operator, reason = failed[0]
        raise Refused(f"in graph {number}, {operator.kind} (operator {operator.index}): {reason}")
    for name, variable in inner.variables.items():
        if variable.assigned:
            own = g.variables.setdefault(name, Variable(name))
            own.initial = _evaluated(inner, variable.value)


def _evaluated(g: Writer, value: str) -> Array:
    """The number that a graph without inputs computes."""
    for tensor in g.initialisers:
        if tensor.name == value:
            return np.asarray(numpy_helper.to_array(tensor))
    graph = helper.make_graph(g.nodes, "once", [], [ValueInfoProto(name=value)], g.initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    try:
        session = open_session(model.SerializeToString())
        made: Any = session.run([value], {})[0]
    except ORT_ERRORS as error:
        raise Refused(f"the initial value of a variable cannot be computed: {error}") from error
    return np.asarray(made)


def _put_stored(g: Writer, index: int, value: str) -> None:
    """Bind a value as the file stores it."""
    if is_quantised(g.tensor(index)):
        g.put_integers(index, value)
    else:
        g.native[index] = value


def named(g: Writer, name: str) -> str:
    """A variable's name as that of an input: unlike those of the graph's own inputs and outputs."""
    main = g.model.main
    taken = {main.tensors[index].name for index in (*main.inputs, *main.outputs)}
    while name in taken:
        name += "_"
    return name


def _assigned_later(g: Writer, name: str) -> bool:
    """Whether a graph other than those that CALL_ONCE names assigns to a variable (or to one that it is passed)."""
    once = {
        int(op.options.initSubgraphIndex)
        for graph in g.model.graphs
        for op in graph.operators
        if op.kind == "CALL_ONCE"
    }
    for number, graph in enumerate(g.model.graphs):
        makers = {out: op for op in graph.operators for out in op.outputs}
        for op in graph.operators:
            if op.kind != "ASSIGN_VARIABLE" or number in once or not op.inputs:
                continue
            maker = makers.get(op.inputs[0])
            if maker is None or maker.kind != "VAR_HANDLE":
                return True  # a handle that was passed to the graph: any
            parts = [getattr(maker.options, part, None) or b"" for part in ("container", "sharedName")]
            if ("/".join(_text(part) for part in parts if part) or f"variable_{maker.index}") == name:
                return True
    return False
