"""Kernels written as loops over whole buffers, of static or symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.tir import Tir

Shape: TypeAlias = Sequence[Tir]  # of ints, or of variables of type int64
Buffers: TypeAlias = Mapping[str, Tir]


def function(
    symbol: str,
    given: Mapping[str, tuple[Shape, str]],
    made: Mapping[str, tuple[Shape, str]],
    body: Callable[[Buffers], None],
) -> PrimFunc:
    """A function of buffers that no pass takes apart.

    Args:
        symbol: its name.
        given: shape and dtype of each input, in order. Symbolic sizes of the same variable are equal.
        made: the same of each result.
        body: emits the loops, for the buffers by name.
    """
    own: dict[Tir, Tir] = {}  # by the caller's variables: a function has variables of its own

    def size(one: Tir) -> Tir:
        if isinstance(one, int | tirx.IntImm):
            return int(one)
        return own.setdefault(one, tirx.Var(f"n{len(own)}", "int64"))

    with IRBuilder() as builder, T.prim_func():
        T.func_name(symbol)
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        buffers = {
            name: T.arg(name, T.buffer(tuple(size(one) for one in shape), dtype))
            for name, (shape, dtype) in {**given, **made}.items()
        }
        with T.sblock("root"), T.sblock(symbol):
            T.reads(*[whole(buffers[name]) for name in given])
            T.writes(*[whole(buffers[name]) for name in made])
            body(buffers)
    return builder.get()


def whole(buffer: Tir) -> Tir:
    """The region of a buffer that is all of it."""
    return buffer[tuple(slice(0, size) for size in buffer.shape)]


def store(buffer: Tir, value: Tir, *at: Tir) -> None:
    """Write one element."""
    T.buffer_store(buffer, value, list(at))


def counter(start: Tir | int = 0) -> Tir:
    """A number (int64, the only element of a buffer) that the kernel changes."""
    made = T.alloc_buffer((1,), "int64", scope="local")
    store(made, i64(start) if isinstance(start, int) else start, 0)
    return made


def add(number: Tir, amount: Tir | int = 1) -> None:
    """Increase a counter."""
    store(number, number[0] + (i64(amount) if isinstance(amount, int) else amount), 0)


def i64(value: int) -> Tir:
    """An int64 constant."""
    return tirx.IntImm("int64", value)
