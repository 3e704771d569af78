"""The program of TVM's virtual machine in a compiled library, as libedgec runs it.

A model with branches, loops or sizes known only at run time has functions that call kernels, each other and a few
built-in functions. They are read from the library and written in instructions of our own
(`runtime/c/machine_code.c`): lists of an operation (`OPERATIONS`), the register for its result (-1 for none) and
arguments, each `4 · value + kind` with a kind of `REGISTER`, `NUMBER` or `CONSTANT` (a shape). What serves only to
check what the compiler knows is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_MAGIC = struct.pack("<Q", 0xD225DE2F4214151E)
REGISTER, NUMBER, CONSTANT = 0, 1, 2
# In the order of `enum operation` in machine_code.h.
OPERATIONS = (
    "return", "goto", "if", "kernel", "call", "heap", "match_shape", "make_shape", "storage", "tensor", "reshape",
    "tensor_to_shape", "shape_of", "copy", "tuple", "item", "condition", "kernel_with_sizes", "make_number",
    "match_number",
)  # fmt: skip
_BUILTINS = {
    "alloc_shape_heap": "heap",
    "match_shape": "match_shape",
    "make_shape": "make_shape",
    "alloc_storage": "storage",
    "alloc_tensor": "tensor",
    "reshape": "reshape",
    "tensor_to_shape": "tensor_to_shape",
    "shape_of": "shape_of",
    "copy": "copy",
    "null_value": "copy",
    "make_tuple": "tuple",
    "tuple_getitem": "item",
    "read_if_cond": "condition",
    "call_tir_dyn": "kernel_with_sizes",
    "make_prim_value": "make_number",
    "match_prim_value": "match_number",
}
_CHECKS = {
    "check_tensor_info",
    "check_shape_info",
    "check_prim_value_info",
    "check_tuple_info",
    "check_func_info",
}
_DTYPES = {(6, 8): 0, (0, 8): 1, (1, 8): 2, (0, 16): 3, (1, 16): 4, (0, 32): 5, (1, 32): 6, (0, 64): 7, (1, 64): 8,
           (2, 16): 9, (4, 16): 10, (2, 32): 11, (2, 64): 12}  # fmt: skip
_VOID, _VM = 1 << 54, (1 << 54) + 1
_CALL, _RETURN, _GOTO, _IF = 1, 2, 3, 4
_FUNCTION = 1  # kinds of entries in the table of functions: 0 is a kernel or built-in function


class NotRunnable(Exception):
    """libedgec has no such operation; the message names it."""


@dataclass(frozen=True)
class _Entry:
    name: str
    kind: int
    start: int
    end: int
    inputs: int
    registers: int


@dataclass
class _Reader:
    """Values of TVM's binary streams, one after another."""

    data: bytes
    at: int

    def numbers(self, layout: str) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found

    def text(self) -> str:
        (size,) = self.numbers("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def list(self, read: Callable[[], Any]) -> list[Any]:
        (count,) = self.numbers("Q")
        return [read() for _ in range(count)]

    def words(self) -> tuple[int, ...]:
        (count,) = self.numbers("Q")
        return self.numbers(f"{count}q")


def machine_of(code: bytes) -> dict[str, Any]:
    """The program in a library.

    Returns:
        `symbols` of kernels in the order in which instructions number them; `machine`: `constants` (shapes),
        `functions` as `[registers, inputs, instructions]`, and the number of `main`.

    Raises:
        NotRunnable: it needs an operation that libedgec lacks.
    """
    at = code.find(_MAGIC)
    if at < 0:
        raise NotRunnable("a program of another kind")
    reader = _Reader(code, at + 8)
    reader.text()  # the version of TVM that wrote it; the artifact's ABI names the one that it has to be
    entries = reader.list(lambda: _entry(reader))
    reader.numbers("Q")
    constants = reader.list(lambda: _constant(reader))
    offsets, words = reader.words(), reader.words()
    return _Translation(entries, constants, offsets, words).run()


def _entry(reader: _Reader) -> _Entry:
    (kind,) = reader.numbers("i")
    name = reader.text()
    start, end, inputs, registers = reader.numbers("4q")
    reader.list(reader.text)
    return _Entry(name, kind, start, end, inputs, registers)


def _constant(reader: _Reader) -> object:
    """A shape as a list, a data type as a number, None for what only checks need."""
    (kind,) = reader.numbers("i")
    if kind == 69:
        return list(reader.words())
    if kind == 5:
        code, bits, _lanes = reader.numbers("BBH")
        return _DTYPES.get((code, bits))
    if kind == 65:
        reader.text()
        return None
    raise NotRunnable("a constant of another kind")


@dataclass
class _Translation:
    entries: list[_Entry]
    constants: list[object]
    offsets: tuple[int, ...]
    words: tuple[int, ...]
    symbols: dict[str, int] = field(default_factory=dict)
    shapes: dict[tuple[int, ...], int] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        own = [entry for entry in self.entries if entry.kind == _FUNCTION]
        self.functions = {entry.name: number for number, entry in enumerate(own)}
        functions = [[entry.registers, entry.inputs, self._body(entry)] for entry in own]
        return {
            "symbols": list(self.symbols),
            "machine": {
                "constants": [list(shape) for shape in self.shapes],
                "functions": functions,
                "main": self.functions["main"],
            },
        }

    def _body(self, entry: _Entry) -> list[list[int]]:
        """The instructions of a function, with the targets of jumps as their numbers in it."""
        made: list[list[int]] = []
        places: dict[int, int] = {}
        jumps: list[tuple[int, int, int]] = []  # instruction, position in it, number in the original
        for number in range(entry.start, entry.end):
            places[number] = len(made)
            at = self.offsets[number]
            operation = self.words[at]
            if operation == _RETURN:
                made.append([0, -1, self.words[at + 1] * 4])
            elif operation == _GOTO:
                jumps.append((len(made), 2, number + self.words[at + 1]))
                made.append([1, -1, 0])
            elif operation == _IF:
                jumps.append((len(made), 3, number + self.words[at + 2]))
                made.append([2, -1, self.words[at + 1] * 4, 0])
            elif operation == _CALL:
                target, function, count = self.words[at + 1 : at + 4]
                self._call(made, target, self.entries[function], self.words[at + 4 : at + 4 + count])
            else:
                raise NotRunnable(f"instruction {operation}")
        places[entry.end] = len(made)
        for instruction, position, number in jumps:
            made[instruction][position] = places[number] * 4 + NUMBER
        return made

    def _call(self, made: list[list[int]], target: int, function: _Entry, arguments: tuple[int, ...]) -> None:
        result = -1 if target == _VOID else target
        builtin = function.name.removeprefix("vm.builtin.")
        if function.kind == _FUNCTION:
            operation, values = (
                "call",
                [self.functions[function.name] * 4 + NUMBER, *self._arguments(arguments)],
            )
        elif builtin == function.name:
            if "." in function.name:
                raise NotRunnable(function.name)
            number = self.symbols.setdefault(function.name, len(self.symbols))
            operation, values = "kernel", [number * 4 + NUMBER, *self._arguments(arguments)]
        elif builtin in _CHECKS:
            return
        elif builtin == "call_tir_dyn":
            kernel = self.entries[arguments[0] & ((1 << 56) - 1)].name
            number = self.symbols.setdefault(kernel, len(self.symbols))
            operation, values = _BUILTINS[builtin], [number * 4 + NUMBER, *self._arguments(arguments[1:])]
        elif builtin in _BUILTINS:
            if builtin in ("match_shape", "match_prim_value"):
                arguments = arguments[:-1]  # the text of its error
            if builtin == "alloc_storage":
                arguments = arguments[:2]  # its device, type (bytes) and kind of memory are always the same
            operation, values = _BUILTINS[builtin], self._arguments(arguments)
        else:
            raise NotRunnable(function.name)
        if operation in ("call", "tuple") and any(value % 4 == CONSTANT for value in values):
            raise NotRunnable("a shape as a value")
        made.append([OPERATIONS.index(operation), result, *values])

    def _arguments(self, words: tuple[int, ...]) -> list[int]:
        return [self._argument(word) for word in words if word != _VM]

    def _argument(self, word: int) -> int:
        kind, value = (word >> 56) & 0xFF, word & ((1 << 56) - 1)
        if kind == 0:
            return -4 + REGISTER if value == _VOID else value * 4 + REGISTER
        if kind == 1:
            return (value - (1 << 56) if value >> 55 else value) * 4 + NUMBER
        constant = self.constants[value] if kind == 2 else None
        if isinstance(constant, int):
            return constant * 4 + NUMBER
        if not isinstance(constant, list):
            raise NotRunnable("an argument of another kind")
        return self.shapes.setdefault(tuple(constant), len(self.shapes)) * 4 + CONSTANT
