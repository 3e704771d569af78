"""Random models with control flow: nests of If, Loop and Scan, sequences, and sizes that come in at run time.

Every value has two axes; the second is always 3, and the first is whatever the operators make of it. A model is drawn
as a program of steps, and comes with inputs that fit it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

WIDTH = 3
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@dataclass
class Program:
    """A model under construction."""

    draw: st.DrawFn
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    names: itertools.count[int] = field(default_factory=itertools.count)

    def name(self, hint: str = "v") -> str:
        """A name that is new."""
        return f"{hint}{next(self.names)}"

    def constant(self, value: object, dtype: str = "int64") -> str:
        """The name of an initialiser."""
        name = self.name("k")
        self.constants[name] = np.asarray(value, dtype)
        return name

    def given(self, value: object, dtype: str = "int64") -> str:
        """The name of an input, or of an initialiser of the same value."""
        if self.draw(st.booleans()):
            return self.constant(value, dtype)
        name = self.name("in")
        self.inputs[name] = np.asarray(value, dtype)
        return name


@st.composite
def programs(draw: st.DrawFn, depth: int = 2) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """A model with two outputs, and its inputs."""
    program = Program(draw)
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    program.inputs["x"] = rng.standard_normal((draw(st.integers(1, 4)), WIDTH)).astype("float32")
    program.constants["w"] = rng.standard_normal((WIDTH, WIDTH)).astype("float32")
    nodes, last = _block(program, ["x"], depth, draw(st.integers(2, 4)))
    nodes.append(helper.make_node("ReduceMean", [last], ["mean"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "program",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in program.inputs.items()
        ],
        [_value(last), helper.make_tensor_value_info("mean", FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in program.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, program.inputs


def _value(name: str, kind: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)


def _block(program: Program, known: list[str], depth: int, steps: int) -> tuple[list[NodeProto], str]:
    """Some steps in a row; returns the nodes, and the name of the last value, whose rows stay below 40 or so."""
    nodes: list[NodeProto] = []
    known = list(known)
    kinds = ["map", "map", "add", "rows", "slice", "product", "range"]
    kinds += ["if", "loop", "while", "scan", "sequence"] if depth else []
    for _ in range(steps):
        kind = program.draw(st.sampled_from(kinds))
        x = program.draw(st.sampled_from(known))
        made = STEPS[kind](program, nodes, x, known, depth)
        known.append(made)
    result = program.name("r")
    nodes.append(helper.make_node("Identity", [known[-1]], [result]))
    return nodes, result


def _map(program: Program, nodes: list[NodeProto], x: str, _known: list[str], _depth: int) -> str:
    y = program.name()
    operator = program.draw(st.sampled_from(["Relu", "Tanh", "Neg", "Sigmoid", "Abs"]))
    nodes.append(helper.make_node(operator, [x], [y]))
    return y


def _add(program: Program, nodes: list[NodeProto], x: str, known: list[str], _depth: int) -> str:
    """One value plus the mean row of another: their numbers of rows may differ."""
    other, mean, y = program.draw(st.sampled_from(known)), program.name(), program.name()
    nodes.append(helper.make_node("ReduceMean", [other], [mean], axes=[0], keepdims=1))
    nodes.append(helper.make_node("Add", [x, mean], [y]))
    return y


def _rows(program: Program, nodes: list[NodeProto], x: str, known: list[str], _depth: int) -> str:
    """Rows of two values joined, at most eight of them."""
    other, joined, y = program.draw(st.sampled_from(known)), program.name(), program.name()
    nodes.append(helper.make_node("Concat", [x, other], [joined], axis=0))
    ends = [program.constant([0]), program.constant([8]), program.constant([0])]
    nodes.append(helper.make_node("Slice", [joined, *ends], [y]))
    return y


def _slice(program: Program, nodes: list[NodeProto], x: str, _known: list[str], _depth: int) -> str:
    """Rows from one on that comes in, and the first one, so that some are left."""
    start = program.given([program.draw(st.integers(-2, 2))])
    step = program.given([program.draw(st.sampled_from([1, 2, -1]))])
    rest, first, y = program.name(), program.name(), program.name()
    end = program.constant([2**40 if program.draw(st.booleans()) else 3])
    nodes.append(helper.make_node("Slice", [x, start, end, program.constant([0]), step], [rest]))
    zero, one = program.constant([0]), program.constant([1])
    nodes.append(helper.make_node("Slice", [x, zero, one, program.constant([0])], [first]))
    nodes.append(helper.make_node("Concat", [first, rest], [y], axis=0))
    return y


def _product(program: Program, nodes: list[NodeProto], x: str, _known: list[str], _depth: int) -> str:
    y, scaled = program.name(), program.name()
    nodes.append(helper.make_node("MatMul", [x, "w"], [y]))
    nodes.append(helper.make_node("Tanh", [y], [scaled]))
    return scaled


def _range(program: Program, nodes: list[NodeProto], x: str, _known: list[str], _depth: int) -> str:
    """A column of numbers, as many as come in, added to a single row of the value."""
    count = program.given(program.draw(st.integers(1, 5)))
    numbers, real, column, mean, y = (program.name() for _ in range(5))
    nodes.append(helper.make_node("Range", [program.constant(0), count, program.constant(1)], [numbers]))
    nodes.append(helper.make_node("Cast", [numbers], [real], to=FLOAT))
    nodes.append(helper.make_node("Reshape", [real, program.constant([-1, 1])], [column]))
    nodes.append(helper.make_node("ReduceMean", [x], [mean], axes=[0], keepdims=1))
    nodes.append(helper.make_node("Add", [column, mean], [y]))
    return y


def _if(program: Program, nodes: list[NodeProto], x: str, known: list[str], depth: int) -> str:
    if program.draw(st.booleans()):
        condition = program.given(program.draw(st.booleans()), "bool")
    else:
        total, condition = program.name(), program.name("c")
        nodes.append(helper.make_node("ReduceSum", [x], [total], keepdims=0))
        nodes.append(helper.make_node("Greater", [total, program.constant(0, "float32")], [condition]))
    y = program.name()
    branches = [_graph(program, known, depth) for _ in range(2)]
    nodes.append(helper.make_node("If", [condition], [y], then_branch=branches[0], else_branch=branches[1]))
    return y


def _graph(program: Program, known: list[str], depth: int) -> GraphProto:
    nodes, last = _block(program, known, depth - 1, program.draw(st.integers(1, 3)))
    return helper.make_graph(nodes, program.name("g"), [], [_value(last)])


def _loop(program: Program, nodes: list[NodeProto], x: str, known: list[str], depth: int) -> str:
    """A state that an iteration makes another of, and its mean row collected; the two are joined in the end."""
    count = program.given(program.draw(st.integers(0, 4)))
    i, go, state = program.name("i"), program.name("go"), program.name("s")
    inner, last = _block(program, [*known, state], depth - 1, program.draw(st.integers(1, 3)))
    short, mean, again = program.name(), program.name(), program.name("go")
    ends = [program.constant([0]), program.constant([6]), program.constant([0])]
    inner.append(helper.make_node("Slice", [last, *ends], [short]))
    inner.append(helper.make_node("ReduceMean", [short], [mean], axes=[0], keepdims=0))
    inner.append(helper.make_node("Identity", [go], [again]))
    body = helper.make_graph(
        inner,
        program.name("g"),
        [
            helper.make_tensor_value_info(i, INT64, []),
            helper.make_tensor_value_info(go, BOOL, []),
            _value(state),
        ],
        [helper.make_tensor_value_info(again, BOOL, []), _value(short), _value(mean)],
    )
    end, rows, y = program.name(), program.name(), program.name()
    nodes.append(helper.make_node("Loop", [count, "", x], [end, rows], body=body))
    nodes.append(helper.make_node("Concat", [end, rows], [y], axis=0))
    return y


def _while(program: Program, nodes: list[NodeProto], x: str, known: list[str], depth: int) -> str:
    """A loop that ends by its condition: a number that doubles, until it exceeds one that comes in."""
    limit = program.given(program.draw(st.integers(1, 40)))
    i, go, state, number = (program.name() for _ in range(4))
    inner, last = _block(program, [*known, state], depth - 1, program.draw(st.integers(1, 2)))
    short, double, again = program.name(), program.name(), program.name()
    ends = [program.constant([0]), program.constant([5]), program.constant([0])]
    inner.append(helper.make_node("Slice", [last, *ends], [short]))
    inner.append(helper.make_node("Add", [number, number], [double]))
    inner.append(helper.make_node("Less", [double, limit], [again]))
    body = helper.make_graph(
        inner,
        program.name("g"),
        [
            helper.make_tensor_value_info(i, INT64, []),
            helper.make_tensor_value_info(go, BOOL, []),
            _value(state),
            helper.make_tensor_value_info(number, INT64, []),
        ],
        [
            helper.make_tensor_value_info(again, BOOL, []),
            _value(short),
            helper.make_tensor_value_info(double, INT64, []),
        ],
    )
    y, count = program.name(), program.name()
    start = program.constant(1)
    nodes.append(
        helper.make_node("Loop", ["", program.constant(True, "bool"), x, start], [y, count], body=body)
    )
    return y


def _scan(program: Program, nodes: list[NodeProto], x: str, _known: list[str], _depth: int) -> str:
    """Running sums of rows, forwards or backwards."""
    state, row, total, out = (program.name() for _ in range(4))
    body = helper.make_graph(
        [helper.make_node("Add", [state, row], [total]), helper.make_node("Tanh", [total], [out])],
        program.name("g"),
        [_value(state), _value(row)],
        [_value(total), _value(out)],
    )
    start, end, rows = program.constant(np.zeros(WIDTH), "float32"), program.name(), program.name()
    way = {"scan_input_directions": [program.draw(st.integers(0, 1))]}
    nodes.append(helper.make_node("Scan", [start, x], [end, rows], body=body, num_scan_inputs=1, **way))
    return rows


def _sequence(program: Program, nodes: list[NodeProto], x: str, known: list[str], _depth: int) -> str:
    """Rows taken apart, one of them moved by a position that comes in, and joined again."""
    other = program.draw(st.sampled_from(known))
    rows, taken, longer, fewer, y = (program.name() for _ in range(5))
    place = program.given(program.draw(st.sampled_from([0, -1])))
    nodes.append(helper.make_node("SplitToSequence", [x], [rows], axis=0))
    nodes.append(helper.make_node("SequenceAt", [rows, place], [taken]))
    nodes.append(helper.make_node("SequenceInsert", [rows, taken], [longer]))
    nodes.append(helper.make_node("SequenceInsert", [longer, other, place], [fewer]))
    joined = program.name()
    nodes.append(helper.make_node("ConcatFromSequence", [fewer], [joined], axis=0))
    ends = [program.constant([0]), program.constant([8]), program.constant([0])]
    nodes.append(helper.make_node("Slice", [joined, *ends], [y]))
    return y


STEPS = {
    "map": _map,
    "add": _add,
    "rows": _rows,
    "slice": _slice,
    "product": _product,
    "range": _range,
    "if": _if,
    "loop": _loop,
    "while": _while,
    "scan": _scan,
    "sequence": _sequence,
}
