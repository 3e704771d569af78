"""Operators of com.microsoft written out by those of the standard, from ONNX Runtime's documentation of them.

A definition is made for the shapes of one node. It is None where the node has a form that is not written out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import FunctionProto, NodeProto, TypeProto, helper, numpy_helper

Array: TypeAlias = npt.NDArray[Any]
OLDEST = 13  # of the standard's operators in these definitions
FUTURE = -3.4e38  # what ONNX Runtime adds to the scores of what is still to come


@dataclass
class Call:
    """A node to be written out, and the nodes that stand for it.

    Attributes:
        node: the node.
        types: of all values of the graph, by name.
    """

    node: NodeProto
    types: Mapping[str, TypeProto]
    nodes: list[NodeProto] = field(default_factory=list)

    def has(self, position: int) -> bool:
        """Whether an input is given."""
        return position < len(self.node.input) and bool(self.node.input[position])

    def input(self, position: int) -> str:
        """The name of an input within the definition; empty where it is left out."""
        return f"i{position}" if self.has(position) else ""

    def shape(self, position: int) -> list[int] | None:
        """The shape of an input; None where a size is unknown."""
        kind = self.types.get(self.node.input[position]) if self.has(position) else None
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        return [d.dim_value for d in dims] if all(d.HasField("dim_value") for d in dims) else None

    def attribute(self, name: str, default: Any) -> Any:  # noqa: ANN401 - as many types as attributes have
        """An attribute of the node."""
        found = next((a for a in self.node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def op(self, op_type: str, *inputs: str, **attrs: Any) -> str:  # noqa: ANN401 - as many types as attributes have
        """The result of another node."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attrs))
        return name

    def ops(self, op_type: str, count: int, *inputs: str, **attrs: Any) -> list[str]:  # noqa: ANN401
        """The results of another node that has several."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attrs))
        return names

    def const(self, value: Any, dtype: str = "float32") -> str:  # noqa: ANN401 - whatever numpy takes
        """A constant."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Another shape of as many elements."""
        return self.op("Reshape", x, self.const(list(shape), "int64"))

    def heads(self, x: str, batch: int, heads: int) -> str:
        """`[batch, rows, heads · size]` as `[batch, heads, rows, size]`."""
        split = self.op("Reshape", x, self.const([batch, 0, heads, -1], "int64"))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def finished(self, results: Sequence[str]) -> FunctionProto:
        """The definition, with these results."""
        outputs = [f"o{i}" for i in range(len(results))]
        nodes = [*self.nodes]
        nodes += [helper.make_node("Identity", [r], [o]) for r, o in zip(results, outputs, strict=True)]
        inputs = [f"i{i}" for i in range(len(self.node.input))]
        return helper.make_function("", "", inputs, outputs, nodes, [])


Definition = Callable[[Call], "FunctionProto | None"]
DEFINITIONS: dict[str, Definition] = {}


def defines(*op_types: str) -> Callable[[Definition], Definition]:
    """Register a definition."""

    def register(function: Definition) -> Definition:
        DEFINITIONS.update(dict.fromkeys(op_types, function))
        return function

    return register


@defines("SkipSimplifiedLayerNormalization")
def _skipped_norm(call: Call) -> FunctionProto | None:
    if any(call.node.output[1:3]):
        return None
    total = call.op("Add", "i0", "i1")
    total = call.op("Add", total, "i3") if call.has(3) else total
    power = call.op("Mul", total, total)
    gain = call.shape(2)
    if gain is None:
        return None
    mean = call.op("Div", call.op("ReduceSum", power, call.const([-1], "int64")), call.const(float(gain[-1])))
    root = call.op("Sqrt", call.op("Add", mean, call.const(float(call.attribute("epsilon", 1e-5)))))
    y = call.op("Mul", call.op("Div", total, root), "i2")
    return call.finished([y, total, total, total][: len(call.node.output)])


@defines("RotaryEmbedding")
def _rotary(call: Call) -> FunctionProto | None:
    shape, places = call.shape(0), call.shape(1)
    cache = call.shape(2)
    if shape is None or places is None or cache is None or call.attribute("is_packed_batching", 0):
        return None
    heads, turned = int(call.attribute("num_heads", 0)), len(shape) == 4
    if not turned and not heads:
        heads = shape[-1] // (cache[1] * 2)
    x = "i0" if turned else call.heads("i0", shape[0], heads)
    rows = shape[2] if turned else shape[1]
    if len(places) == 1 or math.prod(places) == 1:
        steps = call.const(np.arange(rows), "int64")
        at = call.op("Add", call.reshape("i1", [1, 1]), call.reshape(steps, [1, rows]))
    else:
        at = "i1"
    y = rotated(call, x, at, "i2", "i3", 2 * cache[1], bool(call.attribute("interleaved", 0)))
    if not turned:
        y = call.reshape(call.op("Transpose", y, perm=[0, 2, 1, 3]), shape)
    return call.finished([y])


def rotated(call: Call, x: str, at: str, cos: str, sin: str, size: int, interleaved: bool) -> str:
    """Pairs of the first `size` elements of `[batch, heads, rows, …]` turned by the angles of their row's place."""
    cos, sin = (
        call.op("Unsqueeze", call.op("Gather", cache, at), call.const([1], "int64")) for cache in (cos, sin)
    )
    part = _cut(call, x, 0, size)
    rest = _cut(call, x, size, 1 << 40)
    if interleaved:
        one, other = (_cut(call, part, first, 1 << 40, step=2) for first in (0, 1))
    else:
        one, other = _cut(call, part, 0, size // 2), _cut(call, part, size // 2, size)
    real = call.op("Sub", call.op("Mul", one, cos), call.op("Mul", other, sin))
    imaginary = call.op("Add", call.op("Mul", one, sin), call.op("Mul", other, cos))
    if interleaved:
        last = call.const([-1], "int64")
        pairs = [call.op("Unsqueeze", v, last) for v in (real, imaginary)]
        joined = call.op("Concat", *pairs, axis=-1)
        made = call.op("Reshape", joined, call.const([0, 0, 0, size], "int64"))
    else:
        made = call.op("Concat", real, imaginary, axis=-1)
    return call.op("Concat", made, rest, axis=-1)


def _cut(call: Call, x: str, begin: int, end: int, step: int = 1) -> str:
    limits = [call.const([value], "int64") for value in (begin, end, -1, step)]
    return call.op("Slice", x, *limits)


@dataclass
class Scores:
    """How the scores of an attention are made.

    Attributes:
        batch: number of sequences.
        rows: queries of each.
        keys: of each, with those of the past.
        scale: of the products.
        causal: each query sees the keys up to its own.
        masked: what is added to the score of a key that is masked.
    """

    batch: int
    rows: int
    keys: int
    scale: float
    causal: bool
    masked: float


def attended(
    call: Call, q: str, k: str, v: str, scores: Scores, mask: tuple[str, list[int]] | None, bias: str
) -> str | None:
    """The attention of `q`, `k` and `v` `[batch, heads, rows, size]` as `[batch, rows, heads · size]`."""
    product = call.op("MatMul", q, call.op("Transpose", k, perm=[0, 1, 3, 2]))
    made = call.op("Mul", product, call.const(scores.scale))
    if mask is not None:
        added = _mask(call, *mask, scores)
        if added is None:
            return None
        made = call.op("Add", made, added)
    made = call.op("Add", made, bias) if bias else made
    if scores.causal:
        seen = np.tril(np.ones((scores.rows, scores.keys)), scores.keys - scores.rows)
        made = call.op("Add", made, call.const(np.where(seen, 0.0, FUTURE)))
    mixed = call.op("MatMul", call.op("Softmax", made, axis=-1), v)
    return call.op("Reshape", call.op("Transpose", mixed, perm=[0, 2, 1, 3]), call.const([0, 0, -1], "int64"))


def _mask(call: Call, mask: str, shape: list[int], scores: Scores) -> str | None:
    """What is added to the scores: a mask of keys, of pairs, or the number of keys that count."""
    if shape == [scores.batch] and scores.keys != scores.batch:
        place = call.const(np.arange(scores.keys)[None, :], "int64")
        kept = call.op("Less", place, call.op("Cast", call.reshape(mask, [scores.batch, 1]), to=7))
        wide = call.reshape(kept, [scores.batch, 1, 1, scores.keys])
    elif shape == [scores.batch, scores.keys]:
        wide = call.reshape(call.op("Cast", mask, to=9), [scores.batch, 1, 1, scores.keys])
    elif shape == [scores.batch, scores.rows, scores.keys]:
        wide = call.reshape(call.op("Cast", mask, to=9), [scores.batch, 1, scores.rows, scores.keys])
    else:
        return None
    return call.op("Where", wide, call.const(0.0), call.const(scores.masked))


@defines("MultiHeadAttention")
def _multi_head(call: Call) -> FunctionProto | None:
    shapes, heads = [call.shape(i) for i in range(3)], int(call.attribute("num_heads", 0))
    query, key, value = shapes
    if (
        query is None
        or key is None
        or value is None
        or len(query) != 3
        or not heads
        or any(call.node.output[3:])
    ):
        return None
    if call.has(8) or call.has(9) or (call.has(6) and call.shape(6) is None):
        return None
    batch, rows, width = query
    names = ["i0", "i1", "i2"]
    if call.has(3):  # the biases of queries, keys and values, one behind the other
        if len(key) != 3 or len(value) != 3:
            return None
        ends = np.cumsum([0, width, key[2], value[2]])
        for i in range(3):
            limits = [call.const([int(e)], "int64") for e in ends[i : i + 2]]
            names[i] = call.op("Add", names[i], call.op("Slice", "i3", *limits))
    q = call.heads(names[0], batch, heads)
    k, v = (
        name if len(shape) == 4 else call.heads(name, batch, heads)
        for name, shape in ((names[1], key), (names[2], value))
    )
    keys = key[2] if len(key) == 4 else key[1]
    if call.has(6):
        past = call.shape(6)
        keys += past[2] if past is not None else 0
        k, v = call.op("Concat", "i6", k, axis=2), call.op("Concat", "i7", v, axis=2)
    size = width // heads
    scores = _scores(call, batch, rows, keys, size)
    mask = call.shape(4)
    if call.has(4) and mask is None:
        return None
    y = attended(call, q, k, v, scores, (call.input(4), mask) if mask else None, call.input(5))
    return None if y is None else call.finished([y, k, v][: len(call.node.output)])


def _scores(call: Call, batch: int, rows: int, keys: int, size: int) -> Scores:
    scale = float(call.attribute("scale", 0.0)) or 1 / math.sqrt(size)
    masked = float(call.attribute("mask_filter_value", -10000.0))
    return Scores(batch, rows, keys, scale, bool(call.attribute("unidirectional", 0)), masked)


@defines("Attention")
def _attention(call: Call) -> FunctionProto | None:
    """Queries, keys and values are one product of the input."""
    if call.has(6):
        return None
    joined = call.op("MatMul", "i0", "i1")
    joined = call.op("Add", joined, "i2") if call.has(2) else joined
    return _of_joined(call, joined, mask=3, past=4, bias=5)


@defines("QAttention")
def _integer_attention(call: Call) -> FunctionProto | None:
    total = call.op("Cast", call.op("MatMulInteger", "i0", "i1", call.input(6), call.input(7)), to=1)
    joined = call.op("Mul", total, call.op("Mul", "i3", "i4"))
    return _of_joined(call, call.op("Add", joined, "i2"), mask=5, past=8, bias=9)


def _of_joined(call: Call, joined: str, *, mask: int, past: int, bias: int) -> FunctionProto | None:
    """The attention of `[batch, rows, queries + keys + values]`."""
    shape, weights = call.shape(0), call.shape(1)
    heads = int(call.attribute("num_heads", 0))
    if shape is None or weights is None or not heads or call.attribute("do_rotary", 0):
        return None
    batch, rows = shape[:2]
    sizes = [int(s) for s in call.attribute("qkv_hidden_sizes", [weights[1] // 3] * 3)]
    names = call.ops("Split", 3, joined, call.const(sizes, "int64"), axis=2)
    q, k, v = (call.heads(name, batch, heads) for name in names)
    keys = rows
    if call.has(past):
        before = call.shape(past)
        if before is None:
            return None
        keys += before[3]
        halves = call.ops("Split", 2, call.input(past), call.const([1, 1], "int64"), axis=0)
        first = call.const([0], "int64")
        k, v = (
            call.op("Concat", call.op("Squeeze", half, first), new, axis=2)
            for half, new in zip(halves, (k, v), strict=True)
        )
    known = call.shape(mask)
    if call.has(mask) and known is None:
        return None
    scores = _scores(call, batch, rows, keys, sizes[0] // heads)
    y = attended(call, q, k, v, scores, (call.input(mask), known) if known else None, call.input(bias))
    if y is None:
        return None
    if len(call.node.output) == 1 or not call.node.output[1]:
        return call.finished([y])
    first = call.const([0], "int64")
    present = call.op("Concat", *(call.op("Unsqueeze", one, first) for one in (k, v)), axis=0)
    return call.finished([y, present])


def definition(
    node: NodeProto,
    version: int,
    types: Mapping[str, TypeProto],
) -> FunctionProto | None:
    """A node of com.microsoft by operators of the standard; None where it is not written out here.

    Args:
        node: the node.
        version: of the standard's operators in the model.
        types: of all values of the graph, by name.
    """
    define = DEFINITIONS.get(node.op_type)
    if define is None or version < OLDEST:
        return None
    kind = types.get(node.input[0], TypeProto()).tensor_type.elem_type
    if kind and helper.tensor_dtype_to_np_dtype(kind).name not in ("float32", "uint8", "int8"):
        return None
    return define(Call(node, types))
