"""The kernel of an LSTM whose state is rounded to bytes at each step, on the grid of its range at that step.

The range is that of all rows together, as in ONNX Runtime's DynamicQuantizeLSTM on one thread. Sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, function, store
from edgec.compiler.kernels.recurrent import RecurrentKernel, Signature
from edgec.compiler.kernels.tir import Tir

LARGEST = 255.0
SCALE, ZERO = 0, 1


@dataclass
class QuantisedLstmKernel(RecurrentKernel):
    """Writes the TIR of one direction of an LSTM with integer recurrence weights.

    The function takes those weights less their zero points (of type `stored`), and after them `rs [4·hidden]`, the
    scale of each column; the rest is as in `RecurrentKernel`.
    """

    stored: str = "int8"

    def signature(self) -> tuple[Signature, Signature]:
        """Shape and dtype of each input and of each result, in order."""
        usual, made = super().signature()
        given: Signature = {}
        for name, (shape, dtype) in usual.items():
            given[name] = shape, self.stored if name == "r" else dtype
            if name == "r":
                given["rs"] = (4 * self.hidden,), "float32"
        return given, made

    def build(self, symbol: str) -> PrimFunc:
        """The function, under the name `symbol`."""
        return function(symbol, *self.signature(), self.walk)

    @property
    def _lanes(self) -> int:
        return next(lanes for lanes in (16, 8, 4, 2, 1) if self.hidden % lanes == 0)

    def walk(self, buffers: Buffers) -> None:
        """Emit the loops: all rows take a step before the next one begins."""
        b = self.buffers
        b.update(buffers)
        self.steps, self.batch, _ = b["y"].shape  # by the names that the function has for them
        self._allocate()
        b["codes"] = T.alloc_buffer((self.hidden,), "int32")
        b["grid"] = T.alloc_buffer((2,), "float32")
        b["low"] = T.alloc_buffer((self._lanes,), "float32")
        b["high"] = T.alloc_buffer((self._lanes,), "float32")
        with self._rows() as row, self._elements() as k:
            self._keep(b["h0"][row, k], row, k)
            store(b["c"], b["c0"][row, k], row, k)
        with T.serial(0, self.steps) as step:
            self._measure(step)
            with self._rows() as row:
                if self.lengths:
                    self._step_within(step, row)
                else:
                    self._step(self.steps - 1 - step if self.reverse else step, row)

    def _measure(self, step: Tir) -> None:
        """Set the grid: that of the range of all states and 0."""
        b, zero = self.buffers, T.float32(0)
        with self._each_lane() as lane:
            store(b["low"], zero, lane)
            store(b["high"], zero, lane)
        with self._rows() as row:
            if self.lengths:  # a row that ended before the last step has put out zeros
                with T.If(step <= b["len"][row]), T.Then():
                    self._widen(row)
            else:
                self._widen(row)
        low, high = self._over_lanes("low", T.min), self._over_lanes("high", T.max)
        store(b["low"], low, 0)
        store(b["high"], high, 0)
        span = b["high"][0] - b["low"][0]
        store(b["grid"], T.Select(span > zero, span / T.float32(LARGEST), T.float32(1)), SCALE)
        point = T.min(T.max(zero - b["low"][0] / b["grid"][SCALE], zero), T.float32(LARGEST))
        store(b["grid"], tirx.nearbyint(point), ZERO)

    def _widen(self, row: Tir) -> None:
        """Widen the range, lane by lane, by the states of a row."""
        b, lanes = self.buffers, self._lanes
        with T.serial(0, self.hidden // lanes) as block, self._each_lane() as lane:
            value = self._state(row, block * lanes + lane)
            store(b["low"], T.min(b["low"][lane], value), lane)
            store(b["high"], T.max(b["high"][lane], value), lane)

    def _each_lane(self) -> Any:  # noqa: ANN401 - a loop of TVM's builder
        return T.vectorized(0, self._lanes)

    def _over_lanes(self, name: str, joined: Callable[[Tir, Tir], Tir]) -> Tir:
        values = [self.buffers[name][lane] for lane in range(self._lanes)]
        while len(values) > 1:
            values = [joined(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
        return values[0]

    def _products(self, time: Tir, row: Tir, first: int, last: int, *, scaled: bool = False) -> None:
        """Put the pre-activations of the gates from `first` up to `last` into `g`."""
        b, h, w = self.buffers, self.hidden, self.width
        point = b["grid"][ZERO]
        with self._elements() as k:
            code = tirx.nearbyint(self._state(row, k) / b["grid"][SCALE]) + point
            inside = T.min(T.max(code, T.float32(0)), T.float32(LARGEST))
            store(b["codes"], T.Cast("int32", inside - point), k)
        with T.serial(first * h // w, last * h // w) as block:
            acc = T.alloc_buffer((w,), "int32", scope="local")
            with T.vectorized(0, w) as lane:
                store(acc, T.int32(0), lane)
            with T.serial(0, h) as k, T.vectorized(0, w) as lane:
                store(acc, acc[lane] + b["codes"][k] * T.Cast("int32", b["r"][block, k, lane]), lane)
            with T.vectorized(0, w) as lane:
                at = block * w + lane
                scale = b["grid"][SCALE] * b["rs"][at]
                store(b["g"], b["gates"][time, row, at] + T.Cast("float32", acc[lane]) * scale, at)
