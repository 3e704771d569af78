"""The result of lowering, as verification, reports and the packer use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Place:
    """A tensor in the arena.

    Attributes:
        offset: bytes from the arena's start, a multiple of 64.
        shape: its dimensions.
        dtype: its element type.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Operand:
    """A tensor that kernels of a straight-line program read or write.

    Attributes:
        kind: where it lies: an `input` of the model, a `weight`, the `arena`, or a `result` that the caller gets.
        number: which of the inputs, weights or results; 0 for the arena.
        offset: bytes from the arena's start; 0 for the others.
        shape, dtype: as the kernel sees it: several operands may be views of one tensor.
    """

    kind: Literal["input", "weight", "arena", "result"]
    number: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """The calls of a model without control flow, in order, so that it runs without a virtual machine.

    Attributes:
        operands: all tensors.
        calls: the kernel's symbol, and the indices of its operands.
        outputs: the index of each output's operand. One operand may be several outputs, or an input.
        workspace: the most bytes that a thread of a kernel allocates at a time.
        stack: the most bytes of stack that a kernel takes.
        unaligned: whether kernels read inputs on any boundary of their elements; otherwise on one of 64 bytes.
    """

    operands: tuple[Operand, ...]
    calls: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[int, ...]
    workspace: int = 0
    stack: int = 0
    unaligned: bool = False


@dataclass(frozen=True)
class Plan:
    """The places of the activations.

    Attributes:
        entry: the function that takes them as arguments.
        bytes: size of the arena.
        tensors: in the order in which `entry` takes them, after inputs and weights.
        program: the calls that `entry` makes; None where it does more than to call kernels.
    """

    entry: str
    bytes: int
    tensors: tuple[Place, ...]
    program: Program | None = None


@dataclass(frozen=True)
class KernelInfo:
    """One compiled kernel (a symbol of the code library) and where it came from.

    A kernel that computes several layers of the same shape is compiled once: `calls` then has one
    entry for each place it is called from, in the order in which a run of the model calls them.

    Attributes:
        symbol: its name in the library.
        kind: the operator that names it: `conv2d`, `depthwise`, `dense`, `pool`, `elementwise`, …
        calls: per call, in program order: indices of the source ONNX nodes.
        flops: floating point (or integer) operations of one call, a multiply-add counted as two.
        bytes: bytes read and written by one call, each buffer counted once.
        schedule: the chosen schedule in words, such as `direct 14x2 ic16 rows1`.
    """

    symbol: str
    kind: str
    calls: tuple[tuple[int, ...], ...]
    flops: int
    bytes: int
    schedule: str

    @property
    def nodes(self) -> tuple[int, ...]:
        """Indices of all source ONNX nodes computed by this kernel, sorted."""
        return tuple(sorted({node for call in self.calls for node in call}))


@dataclass(frozen=True)
class TuningSummary:
    """The work of the tuner in one compile.

    Attributes:
        workloads: distinct workloads with more than one candidate.
        cache_hits: winners from the user's cache or the shipped one.
        timed: candidates that were built and timed.
        dropped: candidates that failed to build or computed something else.
        seconds: time spent.
        gained_ms: what the chosen kernels of timed layers take less than the first guesses, in a run.
        left: workloads for which there was no time.
    """

    workloads: int = 0
    cache_hits: int = 0
    timed: int = 0
    dropped: int = 0
    seconds: float = 0.0
    gained_ms: float = 0.0
    left: int = 0


@dataclass(frozen=True)
class Lowered:
    """A model as machine code and weights.

    `code` is the shared library of the target. Its Relax VM function `entry` takes the model's inputs in
    their order, then every array of `weights` in order (all of them contiguous).
    """

    code: bytes
    weights: dict[str, npt.NDArray[np.generic]]
    kernels: dict[str, KernelInfo]
    entry: str = "main"
    tuning: TuningSummary = field(default_factory=TuningSummary)
    varies: bool = False  # whether sizes, or the path that a run takes, differ between calls
    calls: tuple[str, ...] = ()  # names of the runtime's functions that the code calls
    libraries: Mapping[str, bytes] = field(default_factory=dict)  # of edgec's own, which the artifact brings
    plan: Plan | None = None  # the entry point that takes its activations as arguments, and their placement
    # of each output: -1 for a size known only at run time, None where nothing is known
    results: tuple[tuple[int, ...] | None, ...] = ()
    workspace: int = 0  # where `varies`: as in `Program`
    stack: int = 0
    objects: tuple[bytes, ...] = field(default=(), repr=False)  # files of the kernels, for other linkers
    unused: frozenset[str] = frozenset()  # features of the target that this code does without

    @property
    def activation_bytes(self) -> int:
        """The size of the static memory plan's arena."""
        return self.plan.bytes if self.plan else 0
