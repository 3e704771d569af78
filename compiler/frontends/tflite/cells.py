"""Recurrent layers: as ONNX's LSTM and RNN where those mean the same, else unrolled step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgec.compiler.frontends.tflite.graph import Array, Refused, Writer
from edgec.compiler.frontends.tflite.registry import NONE, RELU, RELU6, RELU_N1_TO_1, TANH

MAX_UNROLLED = 256  # steps of a layer that is unrolled
TINY = 1e-30
NORM_EPSILON = 1e-8  # of the variance that LiteRT divides by
GATES = ("i", "f", "c", "o")  # input, forget, cell, output: the order of TensorFlow Lite
Rounding = Literal["", "symmetric", "asymmetric"]


@dataclass(frozen=True)
class Lstm:
    """The weights and attributes of one direction of an LSTM.

    Attributes:
        w, r: weights of input `[cells, inputs]` and previous output `[cells, outputs]` by gate.
        b: biases `[cells]` by gate.
        peepholes: weights `[cells]` of the cell state by gate (none for `c`).
        norms: coefficients of layer normalisation by gate; empty without one.
        projection, projection_bias: `[outputs, cells]` and `[outputs]`.
        cell_clip, projection_clip: limits; 0 for none.
        activation: number of the activation of cell and output.
        rounding: of input and output before their products, with weights of 8 bits.
    """

    w: dict[str, Array]
    r: dict[str, Array]
    b: dict[str, Array]
    peepholes: dict[str, Array] = field(default_factory=dict)
    norms: dict[str, Array] = field(default_factory=dict)
    projection: Array | None = None
    projection_bias: Array | None = None
    cell_clip: float = 0.0
    projection_clip: float = 0.0
    activation: int = TANH
    rounding: Rounding = ""

    @property
    def is_standard(self) -> bool:
        """Whether ONNX's LSTM means the same."""
        plain = self.projection is None and not self.norms and not self.cell_clip
        return plain and self.activation == TANH and not self.rounding


@dataclass(frozen=True)
class Rnn:
    """The weights of one direction of a simple recurrent layer; see `Lstm`."""

    w: Array
    r: Array
    b: Array
    activation: int
    rounding: Rounding = ""


def lstm(g: Writer, x: str, steps: int, batch: int, layer: Lstm, *, backwards: bool = False) -> str:
    """The outputs `[steps, batch, outputs]` for inputs `[steps, batch, inputs]`; states begin at zero."""
    if layer.is_standard:
        order = ("i", "o", "f", "c")
        w, r = (np.concatenate([part[gate] for gate in order])[None] for part in (layer.w, layer.r))
        hidden = layer.r["f"].shape[1]
        biases = [layer.b[gate] for gate in order] + [np.zeros(4 * hidden, np.float32)]
        inputs: list[str | Array] = [x, w, r, np.concatenate(biases)[None]]
        if layer.peepholes:
            parts = [layer.peepholes[gate] for gate in ("i", "o", "f")]
            inputs += ["", "", "", np.concatenate(parts)[None]]
        y = g.op("LSTM", *inputs, hidden_size=hidden, direction="reverse" if backwards else "forward")
        return str(g.op("Squeeze", y, np.array([1], np.int64)))
    return _unrolled(g, x, steps, batch, _LstmSteps(g, layer, batch), backwards=backwards)


def rnn(g: Writer, x: str, steps: int, batch: int, layer: Rnn, *, backwards: bool = False) -> str:
    """The outputs `[steps, batch, units]` for inputs `[steps, batch, inputs]`; the state begins at zero."""
    names = {TANH: "Tanh", RELU: "Relu"}
    if layer.activation in names and not layer.rounding:
        hidden = layer.r.shape[1]
        bias = np.concatenate([layer.b, np.zeros(hidden, np.float32)])[None]
        y = g.op(
            "RNN",
            x,
            layer.w[None],
            layer.r[None],
            bias,
            hidden_size=hidden,
            activations=[names[layer.activation]],
            direction="reverse" if backwards else "forward",
        )
        return str(g.op("Squeeze", y, np.array([1], np.int64)))
    return _unrolled(g, x, steps, batch, _RnnSteps(g, layer, batch), backwards=backwards)


def lstm_step(
    g: Writer, x: str, batch: int, layer: Lstm, before: tuple[str, str]
) -> tuple[str, tuple[str, str]]:
    """One step for `x` of `[1, batch, inputs]` after others.

    Args:
        before: the last output `[batch, outputs]`, and the cells `[batch, cells]`.

    Returns:
        the output `[1, batch, outputs]`, and the same after the step.
    """
    cell = _LstmSteps(g, layer, batch)
    cell._h, cell._cell = before
    y = _unrolled(g, x, 1, batch, cell, backwards=False)
    return y, (cell._h, cell._cell)


def rnn_step(g: Writer, x: str, batch: int, layer: Rnn, before: str) -> tuple[str, str]:
    """As `lstm_step`, for a simple layer, whose state is its last output `[batch, units]`."""
    cell = _RnnSteps(g, layer, batch)
    cell._h = before
    y = _unrolled(g, x, 1, batch, cell, backwards=False)
    return y, cell._h


class _LstmSteps:
    """An LSTM's step, with its state."""

    def __init__(self, g: Writer, layer: Lstm, batch: int) -> None:
        self._g, self._layer = g, layer
        self.w = np.concatenate([layer.w[gate] for gate in GATES])
        self._r = np.concatenate([layer.r[gate] for gate in GATES]).T.copy()
        self.b = np.concatenate([layer.b[gate] for gate in GATES]) if not layer.norms else None
        self._h = g.constant(np.zeros((batch, layer.r["f"].shape[1]), np.float32))
        self._cell = g.constant(np.zeros((batch, layer.w["f"].shape[0]), np.float32))
        self.rounding = layer.rounding

    def step(self, driven: str) -> str:
        g, layer = self._g, self._layer
        h = rounded_rows(g, self._h, layer.rounding)
        gates = g.op("Add", driven, g.op("MatMul", h, self._r))
        cells = np.full(4, layer.w["f"].shape[0], np.int64)
        parts = dict(zip(GATES, g.op("Split", gates, cells, outputs=4, axis=1), strict=True))
        kept = g.op("Sigmoid", self._gate("f", parts["f"], self._cell))
        opened = g.op("Sigmoid", self._gate("i", parts["i"], self._cell))
        new = activation(g, self._gate("c", parts["c"], ""), layer.activation)
        cell = g.op("Add", g.op("Mul", kept, self._cell), g.op("Mul", opened, new))
        self._cell = _limited(g, cell, layer.cell_clip)
        out = g.op("Sigmoid", self._gate("o", parts["o"], self._cell))
        h = g.op("Mul", out, activation(g, self._cell, layer.activation))
        if layer.projection is not None:
            h = rounded_rows(g, h, layer.rounding)
            h = g.op("MatMul", h, layer.projection.T.copy())
            h = h if layer.projection_bias is None else g.op("Add", h, layer.projection_bias)
            h = _limited(g, h, layer.projection_clip)
        self._h = h
        return str(h)

    def _gate(self, gate: str, value: str, cell: str) -> str:
        g, layer = self._g, self._layer
        if cell and gate in layer.peepholes:
            value = g.op("Add", value, g.op("Mul", cell, layer.peepholes[gate]))
        if not layer.norms:
            return value
        mean = g.op("ReduceMean", value, np.array([-1], np.int64), keepdims=1)
        centred = g.op("Sub", value, mean)
        variance = g.op("ReduceMean", g.op("Mul", centred, centred), np.array([-1], np.int64), keepdims=1)
        spread = g.op("Sqrt", g.op("Max", variance, np.array(NORM_EPSILON, np.float32)))
        value = g.op("Mul", g.op("Div", centred, spread), layer.norms[gate])
        return str(g.op("Add", value, layer.b[gate]))


class _RnnSteps:
    """A simple layer's step, with its state."""

    def __init__(self, g: Writer, layer: Rnn, batch: int) -> None:
        self._g, self._layer = g, layer
        self.w, self.b = layer.w, layer.b
        self._h = g.constant(np.zeros((batch, layer.r.shape[1]), np.float32))
        self.rounding = layer.rounding

    def step(self, driven: str) -> str:
        h = rounded_rows(self._g, self._h, self._layer.rounding)
        value = self._g.op("Add", driven, self._g.op("MatMul", h, self._layer.r.T.copy()))
        self._h = activation(self._g, value, self._layer.activation)
        return self._h


def _unrolled(
    g: Writer, x: str, steps: int, batch: int, cell: _LstmSteps | _RnnSteps, *, backwards: bool
) -> str:
    if not 0 < steps <= MAX_UNROLLED:
        raise Refused(f"it has {steps} steps of a kind that is unrolled; up to {MAX_UNROLLED} are compiled")
    rows = g.op("Reshape", x, np.array([-1, cell.w.shape[1]], np.int64))
    rows = rounded_rows(g, rows, cell.rounding)
    driven = g.op("Gemm", rows, cell.w, *([] if cell.b is None else [cell.b]), transB=1)
    driven = g.op("Reshape", driven, np.array([steps, batch, cell.w.shape[0]], np.int64))
    made = {}
    for step in reversed(range(steps)) if backwards else range(steps):
        made[step] = cell.step(g.op("Gather", driven, np.array(step, np.int64), axis=0))
    stacked = [g.op("Unsqueeze", made[step], np.array([0], np.int64)) for step in range(steps)]
    return str(stacked[0] if steps == 1 else g.op("Concat", *stacked, axis=0))


def activation(g: Writer, x: str, number: int) -> str:
    """An activation by its number.

    Raises:
        Refused: there is none of this number.
    """
    if number == NONE:
        return x
    if number in (TANH, RELU):
        return str(g.op("Tanh" if number == TANH else "Relu", x))
    limits = {RELU6: (0, 6), RELU_N1_TO_1: (-1, 1)}
    if number not in limits:
        raise Refused(f"it has the activation number {number}")
    return str(g.op("Clip", x, *[np.array(limit, np.float32) for limit in limits[number]]))


def _limited(g: Writer, x: str, limit: float) -> str:
    if limit <= 0:
        return x
    return str(g.op("Clip", x, np.array(-limit, np.float32), np.array(limit, np.float32)))


def rounded_rows(g: Writer, x: str, how: Rounding) -> str:
    """Each row of a matrix rounded to a grid of 8 bits of its own, as LiteRT does before products with such weights."""
    if not how:
        return x
    if how == "asymmetric":
        return rounded(g, x, [-1])
    largest = g.op("ReduceMax", g.op("Abs", x), np.array([-1], np.int64), keepdims=1)
    scale = g.op("Max", g.op("Div", largest, np.array(127, np.float32)), np.array(TINY, np.float32))
    return str(g.op("Mul", g.op("Round", g.op("Div", x, scale)), scale))


def rounded(g: Writer, x: str, axes: list[int]) -> str:
    """Activations as they enter products with int8 weights: each row rounded to a grid of 256 levels of its own."""
    stored, scale, zero_point = on_own_grid(g, x, axes)
    return str(g.op("Mul", g.op("Sub", stored, zero_point), scale))


def on_own_grid(g: Writer, x: str, axes: list[int]) -> tuple[str, str, str]:
    """Activations as whole numbers of 8 bits, fp32, each row on a grid of its own; its scale and its zero point."""
    along, zero = np.array(axes, np.int64), np.array(0, np.float32)
    low = g.op("Min", g.op("ReduceMin", x, along, keepdims=1), zero)
    high = g.op("Max", g.op("ReduceMax", x, along, keepdims=1), zero)
    scale = g.op("Div", g.op("Sub", high, low), np.array(255, np.float32))
    scale = g.op("Max", scale, np.array(TINY, np.float32))
    zero_point = g.op("Round", g.op("Sub", np.array(-128, np.float32), g.op("Div", low, scale)))
    stored = g.op("Add", g.op("Round", g.op("Div", x, scale)), zero_point)
    stored = g.op("Clip", stored, np.array(-128, np.float32), np.array(127, np.float32))
    return stored, scale, zero_point
