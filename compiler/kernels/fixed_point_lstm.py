"""The kernel of an LSTM in fixed point: one function walks all time steps with its state in the cache.

The sums of the inputs' products, which do not depend on the state, are made before the walk. Each is rescaled and
limited for itself, as is each sum of the state's products (see `edgec.compiler.frontends.onnx.fixed_point_lstm`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.fixed_point import Ints
from edgec.compiler.kernels.loops import Buffers, Shape, function, i64, store
from edgec.compiler.kernels.tir import Array, Tir, i32

Factor: TypeAlias = tuple[int, int]  # a multiplier of 31 bits and an exponent
Number: TypeAlias = Callable[[int], Tir]
GATES = 4
INPUT, FORGET, CELL, OUTPUT = range(GATES)
LEAST, MOST = -(1 << 15), (1 << 15) - 1


def half_table(table: Ints, one: int) -> Array:
    """The part of a table of every int16 for 0 to 32768; below 0, a value is `one` less that of the opposite number."""
    return np.append(table[len(table) // 2 :], one - table[0]).astype(np.int16)


def block_width(cells: int) -> int:
    """Columns of a block of recurrence weights: a power of two, as compilers take other vectors apart."""
    return next(width for width in (64, 32, 16, 8, GATES) if GATES * cells % width == 0)


def in_blocks(r: Array) -> Array:
    """Recurrence weights `[cells, 4·cells]` as blocks of columns `[4·cells / width, cells, width]`."""
    width = block_width(r.shape[0])
    return np.ascontiguousarray(r.reshape(len(r), -1, width).transpose(1, 0, 2))


@dataclass
class FixedPointKernel:
    """Writes the TIR of a layer of fixed sizes.

    The function takes `sums [steps, batch, 4·cells]` int32 of the inputs' products, the recurrence weights as
    `in_blocks` lays them, `input_bias` and `state_bias [4·cells]`, the tables `sigmoid`, `tanh` and `shown [32769]` (of
    the cell), and the states `h0 [batch, cells]` int8 and `c0` int64; it writes `h`, `c` and
    `y [steps, batch, cells]` int8.

    Attributes:
        from_input, from_state: factors of the four gates.
        out: the factor of the output, and `zero` its zero point.
        cell_bits: integer bits of the cell.
        clip: the largest cell.
        coupled: whether the input gate is 1 less the forget gate.
    """

    steps: int
    batch: int
    cells: int
    from_input: tuple[Factor, ...]
    from_state: tuple[Factor, ...]
    out: Factor
    zero: int
    cell_bits: int
    clip: int
    coupled: bool
    buffers: dict[str, Any] = field(default_factory=dict, repr=False)

    def build(self, symbol: str) -> PrimFunc:
        """The function, under the name `symbol`."""
        n, width = self.cells, block_width(self.cells)
        table: tuple[Shape, str] = ((-LEAST + 1,), "int16")
        state = (self.batch, n)
        given: dict[str, tuple[Shape, str]] = {
            "sums": ((self.steps, self.batch, GATES * n), "int32"),
            "r": ((GATES * n // width, n, width), "int8"),
            "input_bias": ((GATES * n,), "int32"),
            "state_bias": ((GATES * n,), "int32"),
            "sigmoid": table,
            "tanh": table,
            "shown": table,
            "h0": (state, "int8"),
            "c0": (state, "int64"),
        }
        made: dict[str, tuple[Shape, str]] = {
            "h": (state, "int8"),
            "c": (state, "int64"),
            "y": ((self.steps, self.batch, n), "int8"),
        }
        return function(symbol, given, made, self._walk)

    def _walk(self, buffers: Buffers) -> None:
        b, n = self.buffers, self.cells
        b.update(buffers)
        b["state"] = T.alloc_buffer((n,), "int32")
        b["cell"] = T.alloc_buffer((n,), "int32")
        b["gates"] = T.alloc_buffer((GATES * n,), "int32")
        with T.serial(0, self.batch) as row:
            with T.serial(0, n) as k:
                store(b["state"], T.Cast("int32", b["h0"][row, k]), k)
                store(b["cell"], T.Cast("int32", b["c0"][row, k]), k)
            with T.serial(0, self.steps) as step:
                self._products()
                for gate in range(GATES):
                    if gate != INPUT or not self.coupled:
                        with T.serial(0, n) as k:
                            self._gate(step, row, gate, k)
                with T.serial(0, n) as k:
                    self._cell(k)
                with T.serial(0, n) as k:
                    self._output(step, row, k)
            with T.serial(0, n) as k:
                store(b["h"], T.Cast("int8", b["state"][k]), row, k)
                store(b["c"], T.Cast("int64", b["cell"][k]), row, k)

    def _products(self) -> None:
        """Put the sums of the state's products into `gates`, by blocks of columns, which stay in registers."""
        b, n, width = self.buffers, self.cells, block_width(self.cells)
        with T.serial(0, GATES * n // width) as block:
            acc = T.alloc_buffer((width,), "int32", scope="local")
            with T.vectorized(0, width) as lane:
                store(acc, b["state_bias"][block * width + lane], lane)
            with T.serial(0, n) as k, T.vectorized(0, width) as lane:
                store(acc, acc[lane] + b["state"][k] * T.Cast("int32", b["r"][block, k, lane]), lane)
            with T.vectorized(0, width) as lane:
                store(b["gates"], acc[lane], block * width + lane)

    def _gate(self, step: Tir, row: Tir, gate: int, k: Tir) -> None:
        """Rescale the sums of an element of a gate."""
        b, at = self.buffers, gate * self.cells + k
        first = _scaled(b["sums"][step, row, at] + b["input_bias"][at], self.from_input[gate])
        both = _scaled(b["gates"][at], self.from_state[gate]) + _limited(first, LEAST, MOST, i64)
        store(b["gates"], T.Cast("int32", _limited(both, LEAST, MOST, i64)), at)

    def _active(self, gate: int, k: Tir) -> Tir:
        """A gate after its activation."""
        b = self.buffers
        x = b["gates"][gate * self.cells + k]
        return _looked_up(b["tanh"], x, 0) if gate == CELL else _looked_up(b["sigmoid"], x, MOST)

    def _cell(self, k: Tir) -> None:
        b, forget = self.buffers, self._active(FORGET, k)
        opened = i32(MOST) - forget if self.coupled else self._active(INPUT, k)
        kept = _shifted(forget * b["cell"][k], 15, i32)
        fresh = _shifted(opened * self._active(CELL, k), 15 + self.cell_bits, i32)
        whole = _limited(kept + fresh, LEAST, MOST, i32)
        store(b["cell"], _limited(whole, -self.clip, self.clip, i32), k)

    def _output(self, step: Tir, row: Tir, k: Tir) -> None:
        b = self.buffers
        product = self._active(OUTPUT, k) * _looked_up(b["shown"], b["cell"][k], 0)
        code = T.Cast("int32", _limited(_scaled(product, self.out) + i64(self.zero), -128, 127, i64))
        store(b["state"], code, k)
        store(b["y"], T.Cast("int8", b["state"][k]), step, row, k)


def _looked_up(table: Tir, x: Tir, one: int) -> Tir:
    value = T.Cast("int32", table[T.Select(x < i32(0), i32(0) - x, x)])
    return T.Select(x < i32(0), i32(one) - value, value)


def _scaled(sums: Tir, factor: Factor) -> Tir:
    """An int32 times a factor, as int64."""
    multiplier, exponent = factor
    left, right = max(exponent, 0), max(-exponent, 0)
    whole = T.Cast("int64", sums) * i64(multiplier << left)
    whole = T.shift_right(whole + i64(1 << 30), i64(31))
    return _shifted(whole, right, i64) if right else whole


def _shifted(x: Tir, bits: int, number: Number) -> Tir:
    """Divided by a power of two; halves are rounded away from zero."""
    half = T.Select(x < number(0), number((1 << (bits - 1)) - 1), number(1 << (bits - 1)))
    return T.shift_right(x + half, number(bits))


def _limited(x: Tir, low: int, high: int, number: Number) -> Tir:
    return T.max(T.min(x, number(high)), number(low))
