"""A graph of operators under construction: every node that is added is evaluated, so that what follows fits it.

Beside each value goes a *shadow*: the same value with rounding errors, larger than those of any right kernel, in every
step. It tells how far a right result may be from the evaluator's, and nodes that would turn rounding into a
different integer, truth value or number of rows are not drawn.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.compiler.samples.sample import Array, Draw

ROUNDING = {"float32": 2e-6, "float64": 2e-6, "float16": 2e-3}
LARGEST = 1e4  # of a value, so that none overflows float16
ELEMENTS = 20_000  # of a value
FAILS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    OverflowError,
)


class Rejected(Exception):
    """A step does not fit the values that there are."""


@dataclass
class Drawing:
    """A graph of which some nodes are drawn.

    Attributes:
        draw: the choices.
        opset: version of the operator set.
        values: every value by name.
        shadows: the same with rounding errors.
        inputs: names of the graph's inputs.
        constants: names of the initialisers.
        nodes: in order.
        outer: the graph in which this one is a branch or a body.
        numbers: for names.
    """

    draw: Draw
    opset: int
    values: dict[str, Array] = field(default_factory=dict)
    shadows: dict[str, Array] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    outer: Drawing | None = None
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def name(self, hint: str = "v") -> str:
        """A new name."""
        return f"{hint}{next(self.numbers)}"

    def keep(self, hint: str, value: Array, shadow: Array) -> str:
        """Make a value known in this graph, under a new name."""
        name = self.name(hint)
        self.values[name], self.shadows[name] = value, shadow
        return name

    def given(self, value: Array) -> str:
        """The name of a new input of the model."""
        name, shadow = self.name("in"), self._rounded(value)
        place: Drawing | None = self
        while place is not None:
            place.values[name], place.shadows[name] = value, shadow
            place.inputs.append(name)
            place = place.outer
        return name

    def constant(self, value: Any, dtype: str | None = None) -> str:
        """The name of a new initialiser of this graph."""
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
        name = self.keep("k", array, array)
        self.constants.append(name)
        return name

    def either(self, value: Any, dtype: str | None = None) -> str:
        """An initialiser, or now and then an input that holds this."""
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
        return self.given(array) if self.draw.chance(0.15) else self.constant(array)

    def _rounded(self, value: Array) -> Array:
        if value.dtype.name not in ROUNDING:
            return value
        errors = self.draw.rng.uniform(-1, 1, value.shape) * ROUNDING[value.dtype.name]
        return np.asarray(value * (1 + errors)).astype(value.dtype)

    def pick(self, fits: Callable[[Array], bool]) -> str:
        """One of the values that fit, late ones more often.

        Raises:
            Rejected: there is none.
        """
        names = [n for n, value in self.values.items() if not n.startswith("k") and fits(value)]
        if not names:
            raise Rejected
        return self.draw.pick(names[-3:] if self.draw.chance(0.7) else names)

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attrs: Any) -> list[str]:
        """Add a node.

        Returns:
            the names of its outputs.

        Raises:
            Rejected: the evaluator cannot run it, or its results are too large, no numbers, or not certain.
        """
        places = [f"o{i}" for i in range(outputs)]
        node = helper.make_node(op, list(inputs), places, **attrs)
        known = self.values
        if any(isinstance(a, GraphProto) for a in attrs.values()):
            read = list(known)
        else:
            read = sorted({name for name in inputs if name})
        model = helper.make_model(
            helper.make_graph(
                [node],
                "one",
                [_declared(n, known[n]) for n in read],
                [helper.make_empty_tensor_value_info(p) for p in places],
            ),
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=10,
        )
        results, shadows = (
            evaluated(model, {n: source[n] for n in read}) for source in (known, self.shadows)
        )
        if op == "Loop":  # the evaluator joins the rows of a scan output, where the standard stacks them
            shape = (
                int(self.values[inputs[0]]),
                *self.values[inputs[2]].shape,
            )  # rows have that of the state
            results, shadows = (
                [first, *(r.reshape(shape) for r in rest)] for first, *rest in (results, shadows)
            )
        for result, shadow in zip(results, shadows, strict=True):
            _check(result, shadow)
        kinds = (
            _kinds(model) if results and not any(isinstance(a, GraphProto) for a in attrs.values()) else {}
        )
        names = []
        for place, result, shadow in zip(places, results, shadows, strict=True):
            if place in kinds and kinds[place] != result.dtype:
                result, shadow = result.astype(kinds[place]), shadow.astype(kinds[place])
            names.append(self.keep("v", result, self._rounded(shadow)))
        self.nodes.append(helper.make_node(op, list(inputs), names, **attrs))
        return names

    def one(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        """Add a node with one output, and return its name."""
        return self.add(op, inputs, **attrs)[0]

    def branch(self) -> Drawing:
        """A graph inside of this one, which sees its values."""
        return Drawing(
            self.draw, self.opset, dict(self.values), dict(self.shadows), outer=self, numbers=self.numbers
        )

    def graph(self, outputs: Sequence[str], inputs: Sequence[ValueInfoProto] = ()) -> GraphProto:
        """This graph as the body of a node, its values as its outputs."""
        nodes = list(self.nodes)
        results = []
        for output in outputs:
            name = self.name("r")
            nodes.append(helper.make_node("Identity", [output], [name]))
            kind = helper.np_dtype_to_tensor_dtype(self.values[output].dtype)
            results.append(helper.make_tensor_value_info(name, kind, None))
        stored = [numpy_helper.from_array(self.values[n], n) for n in self.constants]
        return helper.make_graph(nodes, self.name("g"), list(inputs), results, stored)


def _declared(name: str, value: Array) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def evaluated(model: ModelProto, inputs: dict[str, Array]) -> list[Array]:
    """The outputs of a model by the standard's evaluator.

    Raises:
        Rejected: it fails.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            results = ReferenceEvaluator(model).run(None, inputs)
        except FAILS as error:
            raise Rejected from error
    return [np.asarray(result) for result in results]


def _kinds(model: ModelProto) -> dict[str, np.dtype[Any]]:
    """The element types of a model's outputs: numpy widens some."""
    try:
        typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise Rejected from error
    return {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in typed.graph.output}


def _check(result: Array, shadow: Array) -> None:
    """Raise `Rejected` where a result is of no use."""
    if result.shape != shadow.shape or result.size > ELEMENTS or result.dtype.kind not in "fiub":
        raise Rejected
    if result.dtype.kind != "f":
        if not np.array_equal(result, shadow) or (
            result.dtype.kind != "b" and np.abs(result.astype("float64")).max(initial=0) > 1e6
        ):
            raise Rejected
        return
    wide, other = result.astype("float64"), shadow.astype("float64")
    largest = float(np.abs(wide).max(initial=0.0))
    if not np.isfinite(wide).all() or not np.isfinite(other).all() or largest > LARGEST:
        raise Rejected
    if np.abs(wide - other).max(initial=0.0) > 1e3 * ROUNDING.get(result.dtype.name, 0.0) * largest + 1e-30:
        raise Rejected


@dataclass(frozen=True)
class Drawn:
    """A model, its inputs, the outputs by the evaluator, and how far a right result may be from each.

    Attributes:
        free: the shapes of the inputs with names in place of sizes that another set of inputs changes.
    """

    model: ModelProto
    inputs: dict[str, Array]
    expected: dict[str, Array]
    allowed: dict[str, float]


def finished(g: Drawing) -> Drawn:
    """The model of a graph, with all values that nothing reads as outputs, and some others."""
    read = {name for node in g.nodes for name in node.input} | {
        name for node in g.nodes for a in node.attribute if a.HasField("g") for name in _captured(a.g)
    }
    made = [name for node in g.nodes for name in node.output if name in g.values]  # no sequences
    outputs = [n for n in made if n not in read or g.draw.chance(0.1)]
    used = [n for n in g.inputs if n in read]
    kept = [n for n in g.constants if n in read]
    graph = helper.make_graph(
        g.nodes,
        "drawn",
        [_declared(n, g.values[n]) for n in used],
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(g.values[n].dtype), None)
            for n in outputs
        ],
        [numpy_helper.from_array(g.values[n], n) for n in kept],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=10)
    expected = {n: g.values[n] for n in outputs}
    return Drawn(
        model,
        {n: g.values[n] for n in used},
        expected,
        {n: _allowed(expected[n], g.shadows[n]) for n in outputs},
    )


def _captured(graph: GraphProto) -> set[str]:
    """What a graph inside another may read of it."""
    names = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    return names.union(*(_captured(a.g) for node in graph.node for a in node.attribute if a.HasField("g")))


def _allowed(value: Array, shadow: Array) -> float:
    if value.dtype.kind != "f" or not value.size:
        return 0.0
    wide = value.astype("float64")
    spread = float(np.abs(wide - shadow.astype("float64")).max())
    return 5 * spread + 5 * ROUNDING[value.dtype.name] * float(np.abs(wide).max()) + 1e-7
