"""An LSTM in fixed point, as TensorFlow Lite computes those with int8 weights and activations and 16-bit cells.

It is written as ONNX's Scan over the steps, whose body says it in integers exactly:

    gate   = limit16(rescaled(x·W + b) + ...)    input, forget, cell and output in units of 2^-12
             each product rescaled and limited for itself, the inputs' first
    c      = limit(limit16((f·c >> 15) + (i·g >> 30 + log2 of the cell's unit)))
    h      = limit8(rescaled(o·tanh(c)) + zero point)

`i`, `f`, `o` are sigmoids, `g` a hyperbolic tangent, from tables of every int16 (`edgec.compiler.kernels.fixed_point`).
Shifts round halves away from zero; a factor is `multiplier · 2^exponent` with a multiplier of 31 bits. `recognised`
finds the layer in a Scan, whatever its values are called, so that one kernel computes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.patterns import bound
from edgec.compiler.kernels import fixed_point

Array = npt.NDArray[Any]
HALF, UNIT = np.int64(1 << 30), np.int64(1 << 31)
LOW, HIGH = np.int64(-(1 << 15)), np.int64((1 << 15) - 1)
GATE_BITS = 3  # integer bits of a gate before its activation
MOST_EXPONENT = 30  # to the right; to the left, `fits` limits it


@dataclass(frozen=True)
class Factors:
    """What sums are multiplied by, as `multiplier · 2^(exponent - 31)`; one for each element of the last axis.

    Attributes:
        multiplier: int64, below 2^31.
        exponent: int64; the shift is to the right where it is negative.
    """

    multiplier: Array
    exponent: Array

    @classmethod
    def of(cls, reals: Array) -> Factors | None:
        """Of positive real numbers; None where one cannot be written so."""
        if not (np.isfinite(reals).all() and (reals > 0).all()):
            return None
        parts, exponents = np.frexp(reals.astype(np.float64))
        multipliers = np.floor(parts * 2.0**31 + 0.5).astype(np.int64)
        full = multipliers == 1 << 31
        multipliers, exponents = np.where(full, 1 << 30, multipliers), exponents.astype(np.int64) + full
        if (exponents < -MOST_EXPONENT).any() or (exponents > 15).any():
            return None
        return cls(multipliers, exponents)


@dataclass(frozen=True)
class FixedPointLstm:
    """A layer; the gates' order is input, forget, cell, output.

    Attributes:
        w, r: int8 weights `[inputs, 4·cells]` and `[cells, 4·cells]`.
        input_bias, state_bias: int64 `[4·cells]`, zero points included.
        from_input, from_state: factors of `[4·cells]`.
        out: factor of the output.
        zero: zero point of the output.
        cell_bits: integer bits of the cell, 0 to 6.
        clip: the largest cell.
        coupled: whether the input gate is 1 less the forget gate; its weights are not read.
    """

    w: Array
    r: Array
    input_bias: Array
    state_bias: Array
    from_input: Factors
    from_state: Factors
    out: Factors
    zero: int
    cell_bits: int
    clip: int
    coupled: bool

    @property
    def fits(self) -> bool:
        """Whether no sum leaves int32 for any input, shifted to the left included."""
        parts = (self.w, self.input_bias, self.from_input), (self.r, self.state_bias, self.from_state)
        for weights, bias, factors in parts:
            most = 128 * np.abs(weights.astype(np.int64)).sum(axis=0) + np.abs(bias)
            if (most << np.maximum(factors.exponent, 0) >= UNIT).any():
                return False
        return bool((self.out.exponent <= 0).all())

    @property
    def cells(self) -> int:
        """The number of cells, and of outputs."""
        return int(self.r.shape[0])


def body(layer: FixedPointLstm) -> GraphProto:
    """The body of the Scan: states `[batch, cells]` int8 and int64, and an int8 input `[batch, inputs]`."""
    return _written(layer).graph()


def _written(layer: FixedPointLstm) -> _Body:
    b = _Body(layer.w.shape[0], layer.cells)
    b.free |= {"w": layer.w, "r": layer.r, "input_bias": layer.input_bias, "state_bias": layer.state_bias}
    first = b.limited(b.rescaled(b.sums("x", "w", "input_bias"), "input", layer.from_input), LOW, HIGH)
    second = b.rescaled(b.sums("h", "r", "state_bias"), "state", layer.from_state)
    gates = b.limited(b.op("Add", second, first), LOW, HIGH)
    b.free["sizes"] = np.full(4, layer.cells, np.int64)
    i, f, g, o = b.split(gates, "sizes")
    b.free |= {"sigmoid": fixed_point.sigmoid(), "tanh": fixed_point.tanh(GATE_BITS)}
    b.free["shown"] = fixed_point.tanh(layer.cell_bits)
    forget = b.looked_up("sigmoid", f)
    opened = b.op("Sub", b.const(HIGH), forget) if layer.coupled else b.looked_up("sigmoid", i)
    kept = b.shifted(b.op("Mul", forget, "c"), "kept", 15)
    fresh = b.shifted(b.op("Mul", opened, b.looked_up("tanh", g)), "fresh", 15 + layer.cell_bits)
    cell = b.limited(b.op("Add", kept, fresh), LOW, HIGH)
    b.free["clip"] = np.full(layer.cells, layer.clip, np.int64)
    b.free["least"] = -b.free["clip"]
    cell = b.op("Max", b.op("Min", cell, "clip"), "least")
    product = b.op("Mul", b.looked_up("sigmoid", o), b.looked_up("shown", cell))
    out = b.rescaled(product, "out", layer.out)
    b.free["zero"] = np.full(layer.cells, layer.zero, np.int64)
    out = b.limited(b.op("Add", out, "zero"), np.int64(-128), np.int64(127))
    h = b.op("Cast", out, to=TensorProto.INT8)
    b.results = [h, b.op("Identity", cell), b.op("Identity", h)]
    return b


def recognised(graph: GraphProto) -> FixedPointLstm | None:
    """The layer that the body of a Scan computes; None for any other body."""
    if sum(node.op_type == "MatMulInteger" for node in graph.node) != 2:
        return None
    for coupled in (False, True):
        found = bound(*_pattern(coupled), graph)
        layer = None if found is None else _layer(found, coupled)
        if layer is not None:
            return layer
    return None


def _pattern(coupled: bool) -> tuple[GraphProto, frozenset[str]]:
    """The body of some layer, and the names of its constants that differ between layers."""
    ones, one = np.ones(4, np.int64), Factors(np.ones(4, np.int64), np.zeros(4, np.int64))
    weights, single = np.ones((1, 4), np.int8), Factors(ones[:1], 0 * ones[:1])
    made = _written(FixedPointLstm(weights, weights, ones, ones, one, one, single, 0, 0, 1, coupled))
    return made.graph(), frozenset(made.free)


def _layer(found: dict[str, Array], coupled: bool) -> FixedPointLstm | None:
    """The layer of a body's constants, if these are what it would have."""
    tables = [fixed_point.tanh(bits) for bits in range(fixed_point.MOST_BITS + 1)]
    bits = next((b for b, table in enumerate(tables) if np.array_equal(table, found["shown"])), None)
    if bits is None or found["w"].ndim != 2 or found["r"].ndim != 2:
        return None
    factors = {}
    for name in ("input", "state", "out"):
        parts = [found[f"{name}_{part}"] for part in ("left", "right", "multiplier")]
        if any(part.ndim != 1 or (part < 1).any() for part in parts):
            return None
        left, right = (np.log2(part).astype(np.int64) for part in parts[:2])
        factors[name] = Factors(parts[2], left - right)
    layer = FixedPointLstm(
        found["w"], found["r"], found["input_bias"], found["state_bias"],
        factors["input"], factors["state"], factors["out"],
        int(found["zero"].flat[0]), bits, int(found["clip"].flat[0]), coupled,
    )  # fmt: skip
    wanted = _written(layer).free
    same = all(found[name].dtype == a.dtype and np.array_equal(found[name], a) for name, a in wanted.items())
    return layer if same and layer.fits else None


@dataclass
class _Body:
    """A body under construction.

    Attributes:
        inputs, cells: widths of the input and of the states.
        fixed, free: constants that are the same in all layers, and those that differ.
        results: the states and the output.
    """

    inputs: int
    cells: int
    nodes: list[NodeProto] = field(default_factory=list)
    fixed: dict[str, Array] = field(default_factory=dict)
    free: dict[str, Array] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - of the operator
        made = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [made], **attributes))
        return made

    def const(self, value: Array | np.int64) -> str:
        name = f"c{len(self.fixed)}"
        self.fixed[name] = np.asarray(value)
        return name

    def split(self, x: str, sizes: str) -> list[str]:
        made = [f"part{k}" for k in range(4)]
        self.nodes.append(helper.make_node("Split", [x, sizes], made, axis=1))
        return made

    def sums(self, x: str, weights: str, bias: str) -> str:
        products = self.op("MatMulInteger", x, weights)
        return self.op("Add", self.op("Cast", products, to=TensorProto.INT64), bias)

    def rescaled(self, sums: str, name: str, factors: Factors) -> str:
        right = np.maximum(-factors.exponent, 0)
        parts = {
            "left": 1 << np.maximum(factors.exponent, 0),
            "multiplier": factors.multiplier,
            "right": 1 << right,
            "half": (1 << right) >> 1,
            "below": np.minimum(right, 1),
        }
        left, multiplier, divisor, half, below = (f"{name}_{part}" for part in parts)
        self.free |= {f"{name}_{part}": np.asarray(value, np.int64) for part, value in parts.items()}
        whole = self.op("Add", self.op("Mul", self.op("Mul", sums, left), multiplier), self.const(HALF))
        whole = self._floor(whole, self.const(UNIT))
        return self._rounded(whole, divisor, half, below)

    def shifted(self, x: str, name: str, bits: int) -> str:
        divisor, half = f"{name}_divisor", f"{name}_half"
        self.free |= {divisor: np.asarray(np.int64(1 << bits)), half: np.asarray(np.int64(1 << (bits - 1)))}
        return self._rounded(x, divisor, half)

    def _rounded(self, x: str, divisor: str, half: str, below: str = "") -> str:
        less = self.op("Cast", self.op("Less", x, self.const(np.int64(0))), to=TensorProto.INT64)
        less = self.op("Mul", less, below) if below else less
        return self._floor(self.op("Sub", self.op("Add", x, half), less), divisor)

    def _floor(self, x: str, divisor: str) -> str:
        return self.op("Div", self.op("Sub", x, self.op("Mod", x, divisor)), divisor)

    def limited(self, x: str, low: np.int64, high: np.int64) -> str:
        return self.op("Max", self.op("Min", x, self.const(high)), self.const(low))

    def looked_up(self, table: str, x: str) -> str:
        return self.op("Gather", table, self.op("Sub", x, self.const(LOW)))

    def graph(self) -> GraphProto:
        """The body."""

        def value(name: str, kind: int, width: int) -> ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, [None, width])

        small, wide, cells = TensorProto.INT8, TensorProto.INT64, self.cells
        given = [value("h", small, cells), value("c", wide, cells), value("x", small, self.inputs)]
        made = [value(n, k, cells) for n, k in zip(self.results, (small, wide, small), strict=True)]
        stored = [numpy_helper.from_array(a, n) for n, a in {**self.fixed, **self.free}.items()]
        return helper.make_graph(self.nodes, "fixed_point_lstm", given, made, stored)
