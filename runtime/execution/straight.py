"""Runs of models that are sequences of kernels, without TVM's virtual machine.

The artifact's table of calls (`compiler/c_library/table.py`) becomes tables of pointers once, at load. A run then is
one call of `edgec_straight_run` (`compiler/backends/cpu/straight_calls.c`), which the library of the thread pool has.
The virtual machine takes some 0.3 microseconds for each kernel that it calls: more than the kernels of a wake word.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgec.runtime.artifact.config import TensorSpec
from edgec.runtime.artifact.weights import ALIGNMENT
from edgec.runtime.errors import ArtifactError
from edgec.runtime.execution import pool
from edgec.runtime.execution.ffi_layout import Array, DLTensor
from edgec.runtime.schema import Part, prepare

SMALL = 16384  # bytes up to which an array is copied, which is cheaper than to hand it over
_CPU, _TENSOR_POINTER = 1, 7
# DLPack's type codes, and bits
_TYPES = {
    "bool": (6, 8), "int8": (0, 8), "uint8": (1, 8), "int16": (0, 16), "uint16": (1, 16), "int32": (0, 32),
    "uint32": (1, 32), "int64": (0, 64), "uint64": (1, 64), "float16": (2, 16), "bfloat16": (4, 16),
    "float32": (2, 32), "float64": (2, 64),
}  # fmt: skip
_STORED = {"bfloat16": "uint16"}  # where numpy lacks the type
Places = Sequence[tuple[int, int]]
"""Positions of a state among a function's inputs and outputs."""


class Operand(NamedTuple):
    """A tensor that kernels read or write: see `edgec.compiler.lowered.Operand`."""

    kind: str
    number: int
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size of its elements."""
        return math.prod(self.shape) * _TYPES[self.dtype][1] // 8


class Table(Part, kw_only=True):
    """The calls of a run as the artifact stores them."""

    arena: int
    operands: tuple[Operand, ...]
    calls: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[int, ...]
    unaligned: bool = False

    def symbols(self) -> dict[str, int]:
        """The kernels by name, whose addresses are still unknown."""
        return {symbol: 0 for symbol, _, _ in self.calls}

    def fits(self, inputs: Sequence[TensorSpec], weights: int) -> bool:
        """Whether it can be run: it agrees with its config in itself and has fixed sizes and no large results."""
        most = {"input": len(inputs), "weight": weights, "arena": 1, "result": len(self.operands)}
        known = all(
            o.kind in most and 0 <= o.number < most[o.kind] and o.dtype in _TYPES for o in self.operands
        )
        if not known or any(spec.bounds for spec in inputs):
            return False
        inside = all(o.kind != "arena" or 0 <= o.offset <= self.arena - o.bytes for o in self.operands)
        used = {index for _, operands, _ in self.calls for index in operands} | set(self.outputs)
        return inside and used <= set(range(len(self.operands)))


prepare(Table)


def read_table(content: bytes | None) -> Table | None:
    """Parse an artifact's table; None where it has none, or this process cannot run it.

    Raises:
        ArtifactError: it is malformed.
    """
    if content is None or pool.state.library is None or pool.state.library.run is None:
        return None
    try:
        return msgspec.json.decode(content, type=Table)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"the artifact's table of calls is malformed: {error}") from error


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def block_of(size: int) -> tuple[Array, int]:
    """Zeroed bytes on a boundary for kernels, and their address."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -_address(memory) % ALIGNMENT
    memory = memory[start : start + size]
    return memory, _address(memory)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _view(memory: Array, offset: int, shape: Sequence[int], dtype: str) -> Array:
    kind = np.dtype(_STORED.get(dtype, dtype))
    size = math.prod(shape) * kind.itemsize
    return memory[offset : offset + size].view(kind).reshape(shape)


class StraightProgram:
    """A model's kernels with their weights; makes `Run`s, of which each concurrent call needs one.

    Args:
        table: one that fits (`Table.fits`).
        kernels: the address of each kernel.
        weights: in call order.
        inputs: in call order.
        states: positions of each state among inputs and outputs. They are not among the arrays of a run.
    """

    def __init__(
        self,
        table: Table,
        kernels: Mapping[str, int],
        weights: Sequence[Array],
        inputs: Sequence[TensorSpec],
        states: Places = (),
    ) -> None:
        self.table, self.kernels, self.weights = table, kernels, weights
        self.inputs, self.states = tuple(inputs), tuple(states)
        self.offsets: list[int] = []
        """Where each state begins in a block of them."""
        self.state_bytes = 0
        for given, _ in self.states:
            self.offsets.append(self.state_bytes)
            spec = self.inputs[given]
            self.state_bytes += _aligned(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize)

    def of_session(self, states: Places) -> StraightProgram:
        """The same program, whose states stay with the caller."""
        return StraightProgram(self.table, self.kernels, self.weights, self.inputs, states)

    def states_in(self, memory: Array) -> list[Array]:
        """The states in a block of them."""
        specs = [self.inputs[given] for given, _ in self.states]
        return [_view(memory, at, s.shape, s.dtype) for at, s in zip(self.offsets, specs, strict=True)]

    def returns_little(self) -> bool:
        """Whether all results but states are small, so that a copy is cheaper than memory of its own for each run."""
        kept = {made for _, made in self.states}
        sizes = [self.table.operands[o].bytes for n, o in enumerate(self.table.outputs) if n not in kept]
        return all(0 < size <= SMALL for size in sizes)


class States(Sequence[Array]):
    """The states that a run returned; their memory goes to a later run when the last reference is gone."""

    __slots__ = ("_free", "block")

    def __init__(self, block: Block, free: list[Block]) -> None:
        self.block, self._free = block, free

    def __getitem__(self, number: Any) -> Any:  # noqa: ANN401 - an index or a slice
        return self.block.arrays[number]

    def __len__(self) -> int:
        return len(self.block.arrays)

    def __iter__(self) -> Iterator[Array]:
        return iter(self.block.arrays)

    def __del__(self) -> None:
        self._free.append(self.block)


class Block(NamedTuple):
    """Memory of all states of one moment."""

    arrays: list[Array]
    address: int
    memory: Array


class Run:
    """Everything that one call at a time needs: memory, tensors, arguments."""

    __slots__ = ("_bases", "_held", "call", "results", "states_at")

    def __init__(self, program: StraightProgram) -> None:
        layout = _Layout(program)
        self._held = layout
        self._bases, self.states_at = layout.bases, layout.states_at
        self.results = layout.results
        self.call = _caller(layout)
        """Run on arrays of the right shapes and dtypes; the results are new arrays. None where a kernel failed."""

    def use_states(self, present: int, following: int) -> None:
        """Set where the next run reads its states and writes them."""
        self._bases[self.states_at] = present
        self._bases[self.states_at + 1] = following


def _caller(layout: _Layout) -> Callable[[Sequence[Array]], list[Array] | None]:
    """The function that runs once. Of tiny models it is most of the time: hence no attribute is looked up in it."""
    library = pool.state.library
    assert library is not None
    invoke, bases = library.run, layout.bases
    table, places = ctypes.c_void_p(layout.table_address), ctypes.c_void_p(ctypes.addressof(bases))
    small, large = layout.small, layout.large
    copies = [result.copy for result in layout.results]

    def run(arrays: Sequence[Array]) -> list[Array] | None:
        for number, buffer in small:
            buffer[...] = arrays[number]
        for number, base, buffer, boundary in large:
            array = arrays[number]
            address = _address(array)
            if address % boundary or not array.flags.c_contiguous:
                buffer[...] = array
                address = _address(buffer)
            bases[base] = address
        if invoke(table, places):
            return None
        return [copy() for copy in copies]

    if large or len(small) != 1 or len(copies) != 1:
        return run
    ((taken, only),) = small
    (result,) = copies

    def run_one(arrays: Sequence[Array]) -> list[Array] | None:
        only[...] = arrays[taken]
        return None if invoke(table, places) else [result()]

    return run_one


class _Layout:
    """The tables of one run in the layouts of `straight_calls.c`, and the memory that they point to.

    Addresses that change from run to run are relative to `bases`: one for each large input, the present states, the
    next states, and the run's own block.
    """

    def __init__(self, program: StraightProgram) -> None:
        self.program, self.table = program, program.table
        self.into = {given: number for number, (given, _) in enumerate(program.states)}
        self.out = {made: number for number, (_, made) in enumerate(program.states)}
        self.small: list[tuple[int, Array]] = []
        self.large: list[tuple[int, int, Array, int]] = []
        self.places: list[tuple[int, int, int]] = []
        self.copies: list[tuple[int, int, int, int]] = []
        big = [n for n, spec in enumerate(program.inputs) if n not in self.into and self._size(spec) > SMALL]
        self.states_at = len(big)
        self.own = self.states_at + 2
        self.bases = (ctypes.c_void_p * (self.own + 1))()
        self._arena, self._arena_at = block_of(self.table.arena)
        self._cut(big)
        self._tensors()
        self._outputs()
        self._finish()

    @staticmethod
    def _size(spec: TensorSpec) -> int:
        return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize

    def _cut(self, big: Sequence[int]) -> None:
        """Lay out the run's own block: small inputs, results, and copies of outputs."""
        table, used = self.table, 0
        at: dict[tuple[str, int], int] = {}
        results: dict[int, int] = {}
        for operand in table.operands:
            if operand.kind == "result":
                results[operand.number] = max(results.get(operand.number, 0), operand.bytes)
        sizes = [
            (("input", n), self._size(s)) for n, s in enumerate(self.program.inputs) if n not in self.into
        ]
        sizes += [(("result", number), size) for number, size in results.items()]
        sizes += [
            (("output", n), table.operands[o].bytes) for n, o in enumerate(table.outputs) if n not in self.out
        ]
        for key, size in sizes:
            at[key] = used
            used += _aligned(size)
        self._memory, self._memory_at = block_of(used)
        self.bases[self.own] = self._memory_at
        self._at = at
        slots = {number: base for base, number in enumerate(big)}
        passed = [number for number in range(len(self.program.inputs)) if number not in self.into]
        for place, number in enumerate(passed):  # among the arrays of a run, which hold no states
            spec = self.program.inputs[number]
            buffer = _view(self._memory, at["input", number], spec.shape, spec.dtype)
            if number in slots:
                boundary = buffer.itemsize if table.unaligned else ALIGNMENT
                self.large.append((place, slots[number], buffer, boundary))
            elif buffer.size:
                self.small.append((place, buffer))
        self._slots = slots

    def _moving(self, operand: Operand) -> tuple[int, int] | None:
        """The base and offset of a tensor whose address changes; None for others."""
        if operand.kind == "input":
            if operand.number in self.into:
                return self.states_at, self.program.offsets[self.into[operand.number]]
            return (self._slots[operand.number], 0) if operand.number in self._slots else None
        if operand.kind == "result" and operand.number in self._written:
            return self.states_at + 1, self.program.offsets[self._written[operand.number]]
        return None

    def _fixed(self, operand: Operand) -> int:
        if operand.kind == "weight":
            return _address(self.program.weights[operand.number])
        if operand.kind == "arena":
            return self._arena_at + operand.offset
        return self._memory_at + self._at[operand.kind, operand.number]

    def _tensors(self) -> None:
        """Describe all operands. A result that is only a state is written where the next state is."""
        operands, outputs = self.table.operands, self.table.outputs
        shown = {
            operands[o].number
            for n, o in enumerate(outputs)
            if n not in self.out and operands[o].kind == "result"
        }
        self._written: dict[int, int] = {}
        for n, o in enumerate(outputs):
            if n in self.out and operands[o].kind == "result" and operands[o].number not in shown:
                self._written.setdefault(operands[o].number, self.out[n])
        self._sizes = np.array([size for o in operands for size in o.shape] or [0], np.int64)
        self._described = (DLTensor * len(operands))()
        sizes_at, at = _address(self._sizes), 0
        for tensor, operand in zip(self._described, operands, strict=True):
            tensor.device, tensor.ndim, tensor.lanes = _CPU, len(operand.shape), 1
            tensor.code, tensor.bits = _TYPES[operand.dtype]
            tensor.shape = ctypes.cast(sizes_at + 8 * at, type(tensor.shape))
            at += len(operand.shape)
            moving = self._moving(operand)
            if moving is None:
                tensor.data = self._fixed(operand)
            else:
                self.places.append((ctypes.addressof(tensor), *moving))

    def _outputs(self) -> None:
        """The views that results are copied from, and copies of outputs whose address changes or is another's."""
        self.results: list[Array] = []
        operands = self.table.operands
        for n, o in enumerate(self.table.outputs):
            operand, source = operands[o], ctypes.addressof(self._described[o])
            if n in self.out:
                state = self.out[n]
                if operand.kind != "result" or self._written.get(operand.number) != state:
                    place = self.states_at + 1, self.program.offsets[state]
                    self.copies.append((source, *place, operand.bytes))
                continue
            own = self._at["output", n]
            if self._moving(operand) is None:
                found = (ctypes.c_uint8 * operand.bytes).from_address(self._fixed(operand))
                self.results.append(_view(np.frombuffer(found, np.uint8), 0, operand.shape, operand.dtype))  # type: ignore[call-overload]
            else:
                self.copies.append((source, self.own, own, operand.bytes))
                self.results.append(_view(self._memory, own, operand.shape, operand.dtype))

    def _finish(self) -> None:
        """The arguments and the calls."""
        operands = [index for _, used, _ in self.table.calls for index in used]
        described, size = ctypes.addressof(self._described), ctypes.sizeof(DLTensor)
        self._arguments = np.array(
            [(_TENSOR_POINTER, described + index * size) for index in operands], np.int64
        )
        first, steps = _address(self._arguments), []
        for symbol, used, _ in self.table.calls:
            steps.append((self.program.kernels[symbol], first, len(used)))
            first += 16 * len(used)
        self._tables = [np.array(rows or [()], np.int64) for rows in (steps, self.places, self.copies)]
        counts = [len(rows) for rows in (steps, self.places, self.copies)]
        self._header = np.array([*map(_address, self._tables), *counts], np.int64)
        self.table_address = _address(self._header)
