"""Recurrent layers on many threads: a block walks the steps of one row of the batch.

The state lies in shared memory. Each thread sums whole columns of the recurrence weights, which are read side by side
from the caches in every step; then each computes elements of the new state. The threads of a block meet between both,
so that a sequence of any length is one launch. The directions of a layer are kernels of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.templates.attention_walk import barrier
from edgec.compiler.backends.cuda.templates.tiles import WARP
from edgec.compiler.kernels.loops import store
from edgec.compiler.kernels.recurrent import GATES, RecurrentKernel
from edgec.compiler.kernels.tir import Tir

_AHEAD = 8  # weights that a thread loads before it needs the first
_MOST = 512  # threads of a block: with more, registers do not suffice


@dataclass
class RecurrentBlock(RecurrentKernel):
    """The same formulas, spread over the threads of a block.

    Attributes:
        threads: of a block.
    """

    threads: int = WARP

    outer: ClassVar[tuple[str, ...]] = ("buffers", "threads")

    def build(self, symbol: str) -> PrimFunc:
        """The function, with its launch."""
        given, made = self.signature()
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name(symbol)
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            buffers = {
                name: T.arg(name, T.buffer(tuple(shape), dtype))
                for name, (shape, dtype) in {**given, **made}.items()
            }
            with (
                T.launch_thread("blockIdx.x", int(self.batch)) as self.row,
                T.launch_thread("threadIdx.x", self.threads) as self.thread,
            ):
                self.walk(buffers)
                with self._elements() as k:
                    store(buffers["h"], self._state(self.row, k), self.row, k)
        func: PrimFunc = builder.get()
        return func

    @contextmanager
    def _rows(self) -> Iterator[Tir]:
        """The block's row."""
        yield self.row

    def _allocate(self) -> None:
        """Gates, a vector, and the state."""
        for name, size in (("g", GATES[self.op_type] * self.hidden), ("v", self.hidden), ("s", self.hidden)):
            self.buffers[name] = T.alloc_buffer((size,), "float32", scope="shared")

    def _state(self, row: Tir, k: Tir) -> Tir:
        return self.buffers["s"][k]

    def _keep(self, value: Tir, row: Tir, k: Tir) -> None:
        store(self.buffers["s"], value, k)

    def _meet(self) -> None:
        barrier()

    @contextmanager
    def _elements(self) -> Iterator[Tir]:
        """The elements of the state that a thread computes."""
        with self._own(0, self.hidden) as k:
            yield k

    @contextmanager
    def _own(self, first: int, last: int) -> Iterator[Tir]:
        """The numbers from `first` up to `last` that fall to a thread."""
        count = last - first
        with T.serial(0, -(-count // self.threads)) as turn:
            number = turn * self.threads + self.thread
            if count % self.threads == 0:
                yield first + number
            else:
                with T.If(number < count), T.Then():
                    yield first + number

    def _products(self, time: Tir, row: Tir, first: int, last: int, *, scaled: bool = False) -> None:
        """Each thread sums columns of its own."""
        b, h = self.buffers, self.hidden
        with self._own(first * h, last * h) as column:
            self._sum(column, b["gates"][time, row, column], b["v"] if scaled else b["s"], b["g"], column)

    def _multiply_state(self, row: Tir) -> None:
        b, h = self.buffers, self.hidden
        with self._own(0, h) as k:
            self._sum(2 * h + k, T.float32(0), b["s"], b["v"], k)

    def _sum(self, column: Tir, start: Tir, vector: Tir, into: Tir, place: Tir) -> None:
        """A column of weights times a vector, in the order in which processors add."""
        h, w = self.hidden, self.width
        total = T.alloc_buffer((1,), "float32", scope="local")
        store(total, start, 0)

        def add(k: Tir) -> None:
            weight = self.buffers["r"][tirx.floordiv(column, w), k, tirx.floormod(column, w)]
            store(total, total[0] + vector[k] * weight, 0)

        with T.serial(0, h // _AHEAD) as few, T.unroll(_AHEAD) as one:
            add(few * _AHEAD + one)
        for k in range(h - h % _AHEAD, h):
            add(k)
        store(into, total[0], place)


def emit_recurrent(kernel: RecurrentKernel, symbol: str, most_threads: int) -> PrimFunc:
    """The kernel of a layer's direction for a GPU whose blocks may have so many threads."""
    columns = GATES[kernel.op_type] * kernel.hidden
    threads = min(most_threads, _MOST, -(-columns // WARP) * WARP)
    return RecurrentBlock(**kernel.known, threads=threads).build(symbol)
