"""Kernels of recurrent layers: one function walks all time steps with its state in the cache.

The products of the inputs with their weights do not depend on the state: they are one matrix product before the walk.
Each step then only multiplies the state with the recurrence weights, which are stored in blocks of `width` columns, so
that a block's sums stay in registers while the state is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.graph.anchors import decode, encode
from edgec.compiler.kernels.loops import Buffers, Shape, function
from edgec.compiler.kernels.tir import Array, Tir

Activation: TypeAlias = Callable[[Tir], Tir]
Named: TypeAlias = tuple[str, float | None, float | None]  # an activation's name, alpha and beta
Signature: TypeAlias = dict[str, tuple[Shape, str]]
RECURRENT = "edgec.recurrent"  # attribute of a kernel of fixed sizes: what it computes
WIDEST = 64  # columns of a block: four registers of 512 bits, or eight of 256
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def activation(name: str, alpha: float | None, beta: float | None) -> Activation | None:
    """An activation of ONNX's recurrent operators on a TIR expression; None for an unknown name."""

    def f32(value: float | None, default: float) -> Tir:
        return T.float32(default if value is None else value)

    one, zero = T.float32(1), T.float32(0)
    table: dict[str, Activation] = {
        "sigmoid": lambda x: one / (one + T.exp(zero - x)),
        "tanh": T.tanh,
        "relu": lambda x: T.max(x, zero),
        "affine": lambda x: f32(alpha, 1.0) * x + f32(beta, 0.0),
        "leakyrelu": lambda x: T.Select(x >= zero, x, f32(alpha, 0.01) * x),
        "thresholdedrelu": lambda x: T.Select(x > f32(alpha, 1.0), x, zero),
        "scaledtanh": lambda x: f32(alpha, 1.0) * T.tanh(f32(beta, 1.0) * x),
        "hardsigmoid": lambda x: T.max(zero, T.min(one, f32(alpha, 0.2) * x + f32(beta, 0.5))),
        "elu": lambda x: T.Select(x >= zero, x, f32(alpha, 1.0) * (T.exp(x) - one)),
        "softsign": lambda x: x / (one + T.fabs(x)),
        "softplus": lambda x: T.max(x, zero) + T.log(one + T.exp(zero - T.fabs(x))),  # e^x overflows
    }
    return table.get(name.lower())


@dataclass
class RecurrentKernel:
    """Writes the TIR of one direction of a recurrent layer.

    The function takes `gates [steps, batch, n·hidden]` (the inputs' products and biases), the recurrence
    weights as `blocked` lays them, `h0 [batch, hidden]`, then (LSTM) `c0` and (with `peepholes`)
    `p [3, hidden]`, (GRU, `linear_before_reset`) `rb [hidden]`, (`lengths`) `len [batch]`
    int32; and writes `y [steps, batch, hidden]`, `h [batch, hidden]` and (LSTM) `c [batch, hidden]`.
    `steps` and `batch` are numbers, or variables of the caller.

    Formulas: ONNX operators LSTM-22, GRU-22 and RNN-22.
    """

    op_type: str
    steps: Tir
    batch: Tir
    hidden: int
    activations: tuple[Named, ...]
    reverse: bool = False
    clip: float | None = None
    input_forget: bool = False
    linear_before_reset: bool = False
    peepholes: bool = False
    lengths: bool = False
    buffers: dict[str, Any] = field(default_factory=dict, repr=False)

    outer: ClassVar[tuple[str, ...]] = ("buffers",)  # attributes that do not say what is computed

    @property
    def width(self) -> int:
        """Columns of a block of recurrence weights."""
        return block_width(self.hidden)

    @property
    def functions(self) -> list[Activation]:
        """The activations on expressions."""
        found = [activation(*one) for one in self.activations]
        return [one for one in found if one is not None]

    def signature(self) -> tuple[Signature, Signature]:
        """Shape and dtype of each input and of each result, in order."""
        n, b, h, w = GATES[self.op_type], self.batch, self.hidden, self.width
        state: Shape = (b, h)
        given: Signature = {
            "gates": ((self.steps, b, n * h), "float32"),
            "r": ((n * h // w, h, w), "float32"),
            "h0": (state, "float32"),
        }
        if self.op_type == "LSTM":
            given["c0"] = (state, "float32")
        if self.peepholes:
            given["p"] = ((3, h), "float32")
        if self.linear_before_reset:
            given["rb"] = ((h,), "float32")
        if self.lengths:
            given["len"] = ((b,), "int32")
        made: Signature = {"y": ((self.steps, b, h), "float32"), "h": (state, "float32")}
        if self.op_type == "LSTM":
            made["c"] = (state, "float32")
        return given, made

    def build(self, symbol: str) -> PrimFunc:
        """The function, under the name `symbol`."""
        fixed = isinstance(self.steps, int) and isinstance(self.batch, int)
        text = encode("recurrent", self.known) if fixed else None
        made: PrimFunc = function(symbol, *self.signature(), self.walk)
        return made if text is None else made.with_attr(RECURRENT, text)

    @property
    def known(self) -> dict[str, Any]:
        """What it computes, by the names of its attributes."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in self.outer}

    @contextmanager
    def _elements(self) -> Iterator[Tir]:
        """A loop over a state's elements, as vector code where they fill vectors."""
        lanes = next(lanes for lanes in (16, 8, 4, 2, 1) if self.hidden % lanes == 0)
        if lanes == 1:
            with T.serial(0, self.hidden) as k:
                yield k
        else:
            with T.serial(0, self.hidden // lanes) as block, T.vectorized(0, lanes) as lane:
                yield block * lanes + lane

    def _rows(self) -> Any:  # noqa: ANN401 - a loop of TVM's builder
        """A loop over the rows of the batch."""
        return T.serial(0, self.batch)

    def _allocate(self) -> None:
        """What a step needs: pre-activations of the gates, and a vector of the state's size."""
        self.buffers["g"] = T.alloc_buffer((GATES[self.op_type] * self.hidden,), "float32")
        self.buffers["v"] = T.alloc_buffer((self.hidden,), "float32")

    def _state(self, row: Tir, k: Tir) -> Tir:
        """An element of the state."""
        return self.buffers["h"][row, k]

    def _keep(self, value: Tir, row: Tir, k: Tir) -> None:
        """Write an element of the state."""
        _store(self.buffers["h"], value, [row, k])

    def _meet(self) -> None:
        """What comes next reads what was written before, by whichever thread."""

    def walk(self, buffers: Buffers) -> None:
        """Emit the loops."""
        b = self.buffers
        b.update(buffers)
        self.steps, self.batch, _ = b["y"].shape  # by the names that the function has for them
        self._allocate()
        with self._rows() as row:
            with self._elements() as k:
                self._keep(b["h0"][row, k], row, k)
                if self.op_type == "LSTM":
                    _store(b["c"], b["c0"][row, k], [row, k])
            self._meet()
            with T.serial(0, self.steps) as step:
                if self.lengths:
                    self._step_within(step, row)
                else:
                    self._step(self.steps - 1 - step if self.reverse else step, row)

    def _step_within(self, step: Tir, row: Tir) -> None:
        """A step of a row that may be shorter than the others: past its end, outputs are 0."""
        b = self.buffers
        count = b["len"][row]
        with T.If(step < count):
            with T.Then():
                self._step(count - 1 - step if self.reverse else step, row)
            with T.Else(), self._elements() as k:
                _store(b["y"], T.float32(0), [step, row, k])

    def _step(self, time: Tir, row: Tir) -> None:
        {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.op_type](time, row)

    def _products(self, time: Tir, row: Tir, first: int, last: int, *, scaled: bool = False) -> None:
        """Put the pre-activations of the gates from `first` up to `last` into `g`."""
        b, h, w = self.buffers, self.hidden, self.width
        with T.serial(first * h // w, last * h // w) as block:
            acc = T.alloc_buffer((w,), "float32", scope="local")
            with T.vectorized(0, w) as lane:
                _store(acc, b["gates"][time, row, block * w + lane], [lane])
            with T.serial(0, h) as k:
                value = b["v"][k] if scaled else self._state(row, k)
                with T.vectorized(0, w) as lane:
                    _store(acc, acc[lane] + value * b["r"][block, k, lane], [lane])
            with T.vectorized(0, w) as lane:
                _store(b["g"], acc[lane], [block * w + lane])

    def _gate(self, gate: int, k: Tir) -> Tir:
        return self._clipped(self.buffers["g"][gate * self.hidden + k])

    def _clipped(self, value: Tir) -> Tir:
        if self.clip is None:
            return value
        return T.max(T.float32(-self.clip), T.min(T.float32(self.clip), value))

    def _lstm(self, time: Tir, row: Tir) -> None:
        b, (f, g, out) = self.buffers, self.functions
        self._products(time, row, 0, 4)
        self._meet()
        with self._elements() as k:
            old = b["c"][row, k]
            peep = [b["p"][i, k] if self.peepholes else None for i in range(3)]  # of i, o, f

            def gate(number: int, weight: Tir | None, cell: Tir, k: Tir = k) -> Tir:
                raw = b["g"][number * self.hidden + k]
                return self._clipped(raw if weight is None else raw + weight * cell)

            i = f(gate(0, peep[0], old))
            forget = T.float32(1) - i if self.input_forget else f(gate(2, peep[2], old))
            _store(b["c"], forget * old + i * g(gate(3, None, old)), [row, k])
            new = b["c"][row, k]
            self._keep(f(gate(1, peep[1], new)) * out(new), row, k)
            _store(b["y"], self._state(row, k), [time, row, k])
        self._meet()

    def _gru(self, time: Tir, row: Tir) -> None:
        b, h, (f, g) = self.buffers, self.hidden, self.functions
        self._products(time, row, 0, 2)
        if self.linear_before_reset:
            # gate 2 of `r` times the state alone; the inputs' part is added after the reset
            self._multiply_state(row)
            self._meet()
            with self._elements() as k:
                reset = f(self._gate(1, k))
                raw = b["gates"][time, row, 2 * h + k] + reset * (b["v"][k] + b["rb"][k])
                _store(b["g"], raw, [2 * h + k])
            self._meet()
        else:
            self._meet()
            with self._elements() as k:
                _store(b["v"], f(self._gate(1, k)) * self._state(row, k), [k])
            self._meet()
            self._products(time, row, 2, 3, scaled=True)
            self._meet()
        with self._elements() as k:
            z = f(self._gate(0, k))
            new = (T.float32(1) - z) * g(self._gate(2, k)) + z * self._state(row, k)
            _store(b["y"], new, [time, row, k])
        self._meet()
        with self._elements() as k:
            self._keep(b["y"][time, row, k], row, k)
        self._meet()

    def _multiply_state(self, row: Tir) -> None:
        """Put the state times the third gate's weights into `v`."""
        b, h, w = self.buffers, self.hidden, self.width
        with T.serial(0, h // w) as block:
            acc = T.alloc_buffer((w,), "float32", scope="local")
            with T.vectorized(0, w) as lane:
                _store(acc, T.float32(0), [lane])
            with T.serial(0, h) as k, T.vectorized(0, w) as lane:
                _store(acc, acc[lane] + self._state(row, k) * b["r"][2 * h // w + block, k, lane], [lane])
            with T.vectorized(0, w) as lane:
                _store(b["v"], acc[lane], [block * w + lane])

    def _rnn(self, time: Tir, row: Tir) -> None:
        b = self.buffers
        self._products(time, row, 0, 1)
        self._meet()
        with self._elements() as k:
            self._keep(self.functions[0](self._gate(0, k)), row, k)
            _store(b["y"], self._state(row, k), [time, row, k])
        self._meet()


def recurrent_of(func: PrimFunc) -> RecurrentKernel | None:
    """What a recurrent layer's kernel of fixed sizes computes; None for any other kernel."""
    text = func.attrs[RECURRENT] if func.attrs is not None and RECURRENT in func.attrs else None
    return None if text is None else RecurrentKernel(**decode(str(text))[1])


def block_width(hidden: int) -> int:
    """The widest block of columns that divides a gate."""
    return next(width for width in range(min(WIDEST, hidden), 0, -1) if hidden % width == 0)


def blocked(r: Array, hidden: int) -> Array:
    """Recurrence weights `[n·hidden, hidden]` as blocks `[n·hidden / width, hidden, width]`."""
    width = block_width(hidden)
    return np.ascontiguousarray(r.reshape(-1, width, hidden).transpose(0, 2, 1))


def _store(buffer: Tir, value: Tir, indices: list[Tir]) -> None:
    T.buffer_store(buffer, value, indices)
