"""What the C library of a model is made of, and what an instance of it takes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

import edgec.runtime as rt
from edgec.compiler.c_library.names import identifier
from edgec.compiler.c_library.table import kernel_nodes, node_names, varying_program
from edgec.compiler.lowered import Lowered, Operand, Program
from edgec.runtime.snapshot import header_of

_ALIGNMENT, _INSTANCE, _WORKER = 64, 512, 128  # as model_api.c asserts
_STACK_OF_RUN = (
    12288  # of what surrounds a kernel, of C's mathematical functions, and to write the text of an error
)
_STACK_OF_CALLS = 262144  # of machine_code.h
_SNAPSHOT_HEAD = 8 + 32 + 8


@dataclass(frozen=True)
class CModel:
    """What the C library of a model is made of.

    Attributes:
        config: the artifact's config.
        program: its calls; where it varies, its parameters and kernels.
        arena: bytes of activations.
        nodes: of the source model, for each of the calls.
        weights: the blob of weights, in pieces.
        offsets: bytes from the blob's start to each array, by name.
        linked: whether the weights are part of the library.
        machine: the instructions of a model with branches, loops or sizes known only at run time.
    """

    config: rt.ArtifactConfig
    program: Program
    arena: int
    nodes: Sequence[str]
    weights: Sequence[bytes | memoryview]
    offsets: Mapping[str, int]
    linked: bool
    machine: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The prefix of its functions."""
        return identifier(self.config.name)

    @property
    def weights_bytes(self) -> int:
        """The size of the blob of weights."""
        return sum(map(len, self.weights))

    def weights_digest(self) -> bytes:
        """SHA-256 of the blob of weights."""
        digest = hashlib.sha256()
        for piece in self.weights:
            digest.update(piece)
        return digest.digest()

    def result_bytes(self) -> list[int]:
        """The size of each result."""
        sizes: dict[int, int] = {}
        for operand in self.program.operands:
            if operand.kind == "result":
                sizes[operand.number] = max(sizes.get(operand.number, 0), operand_bytes(operand))
        return [sizes[number] for number in range(len(sizes))]

    def memory(self) -> tuple[int, int]:
        """The most bytes of an instance: fixed, and for each thread. As `lay_out` of engine.c cuts them."""
        program, config = self.program, self.config
        states = {state.input for state in config.states}
        arguments = sum(len(operands) for _, operands in program.calls)
        results = self.result_bytes()
        parts = [
            _INSTANCE,
            48 * len(program.operands),
            16 * arguments,
            4 * len(program.operands),
            *[8 * len(config.inputs)] * 2,
            *[8 * len(results)] * 2,
            *[8 * len(states)] * 2,
            0 if self.machine is None else 16 * len(config.visible().inputs),
            *(0 if spec.name in states else array_bytes(spec.shape, spec.dtype) for spec in config.inputs),
            *results,
            *(array_bytes(state.shape, state.dtype) for state in config.states for _ in range(2)),
            self.arena,
            *[_ALIGNMENT]
            * 3,  # workers, members of the pool and speeds of its threads round up; one speed more
        ]
        return sum(map(_rounded, parts)), _WORKER + _rounded(program.workspace)

    @property
    def stack(self) -> int:
        """The most bytes of stack of a thread."""
        return self.program.stack + _STACK_OF_RUN + (0 if self.machine is None else _STACK_OF_CALLS)

    def snapshot_bytes(self) -> int:
        """The size of a snapshot of its state; 0 without state."""
        values = sum(array_bytes(state.shape, state.dtype) for state in self.config.states)
        return _SNAPSHOT_HEAD + len(header_of(self.config)) + values if self.config.states else 0


def operand_bytes(operand: Operand) -> int:
    """The size of an operand."""
    return array_bytes(operand.shape, operand.dtype)


def model_of(
    config: rt.ArtifactConfig,
    lowered: Lowered,
    weights: Sequence[bytes | memoryview],
    offsets: Mapping[str, int],
    *,
    linked: bool,
) -> CModel:
    """What the C library of a model is made of; the arguments are as in `CModel`."""
    if lowered.varies:
        program, machine = varying_program(lowered, config)
        nodes = kernel_nodes(program, config)
        return CModel(config, program, lowered.activation_bytes, nodes, weights, offsets, linked, machine)
    plan = lowered.plan
    assert plan is not None
    assert plan.program is not None
    return CModel(config, plan.program, plan.bytes, node_names(plan, config), weights, offsets, linked)


def array_bytes(shape: Iterable[int], dtype: str) -> int:
    """Bytes of an array; 0 where a size is known only at run time (-1)."""
    shape = tuple(shape)
    if -1 in shape:
        return 0
    return math.prod(shape) * max(8, int(tvm.DataType(dtype).bits)) // 8


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
