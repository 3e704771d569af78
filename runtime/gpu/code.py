"""The code layer of an artifact for a GPU: binaries of kernels, and the launches of one run.

Layout: `MAGIC`, 8 bytes of header length (little-endian), the header as JSON, then the binaries. There is no code for
the host: the same layer runs beside any processor. It never holds source: a device needs the driver alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgec.runtime.errors import ArtifactError, IncompatibleDevice
from edgec.runtime.schema import Part, prepare

MAGIC = b"edgecGPU"
PROGRAMS = b"edgecGPs"
FORMAT = 2  # the newest that is read; 2 has results whose sizes a run tells
ALIGNMENT = 64  # of places in the arena
_HEADER_LIMIT = 64 << 20
Extent = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Offset = Annotated[int, Meta(ge=0)]


class Operand(Part, kw_only=True):
    """A tensor that a step reads or writes.

    Attributes:
        place: `input`, `weight` and `output` are numbered by `index`; `arena` is `offset` bytes from its start.
        varies: its size is known when a run has made it; it stays on the host, and takes no memory of the device.
    """

    place: Literal["input", "weight", "arena", "output"]
    index: Offset = 0
    offset: Annotated[int, Meta(ge=0, multiple_of=ALIGNMENT)] = 0
    shape: tuple[int, ...]
    dtype: str
    varies: bool = False

    @property
    def bytes(self) -> int:
        """Its size on the device; elements of less than a byte are not stored."""
        if self.varies:
            return 0
        bits = int("".join(filter(str.isdigit, self.dtype)) or 8)
        return math.prod(self.shape) * max(8, bits) // 8


class Launch(Part, kw_only=True, tag="launch"):
    """One launch of a kernel.

    Attributes:
        kernel: the function's name in its binary.
        layer: name of the compiled layer, as in the config's kernels.
        call: which of the layer's calls this launch is part of, from 0.
        grid: blocks in x, y and z.
        block: threads of a block in x, y and z.
        shared_bytes: dynamic shared memory of a block.
        arguments: of the kernel; all of them are pointers.
    """

    kernel: str
    layer: str
    call: Offset = 0
    grid: tuple[Extent, Extent, Extent]
    block: tuple[Extent, Extent, Extent]
    shared_bytes: Offset = 0
    arguments: tuple[Operand, ...]


class HostCall(Part, kw_only=True, tag="host"):
    """A segment that ONNX Runtime runs on the host: its inputs, then its outputs, are copied there and back.

    Attributes:
        operands: inputs and outputs; inputs alone if there are `results`.
        results: outputs of a segment of which one varies in size.
    """

    function: str
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...] = ()


class Copy(Part, kw_only=True, tag="copy"):
    """A copy between two places of the device."""

    source: Operand
    target: Operand


Step = Launch | HostCall | Copy


class Binary(Part, kw_only=True):
    """Machine code of one or several kernels.

    Attributes:
        arch: the architecture it was made for, such as `sm_87`.
        kind: `cubin` runs on that architecture and, except for GPUs in processors (Jetson), later minor versions of
            the same major one; `ptx` is compiled by the driver for that architecture or any later one.
        kernels: names of its functions.
    """

    arch: Annotated[str, Meta(pattern=r"^[a-z]+_?[0-9a-z]*$")]
    kind: Literal["cubin", "ptx"]
    kernels: tuple[str, ...]
    offset: Offset
    size: Offset


class GpuCode(Part, kw_only=True):
    """The header.

    Attributes:
        arena_bytes: size of the arena in which activations have their places.
        outputs: what a run returns, in order.
        steps: of one run, in order.
        binaries: of all architectures.
    """

    format: int = 1
    arena_bytes: Offset
    inputs: tuple[Operand, ...]
    weights: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    steps: tuple[Step, ...]
    binaries: tuple[Binary, ...]


prepare(GpuCode)


def pack(header: GpuCode, binaries: bytes) -> bytes:
    """The content of a code layer."""
    encoded = msgspec.json.encode(header)
    return MAGIC + len(encoded).to_bytes(8, "little") + encoded + binaries


def unpack(code: bytes) -> tuple[GpuCode, memoryview]:
    """The header and the binaries of a code layer, checked.

    Raises:
        ArtifactError: the content is no GPU code, or damaged.
        IncompatibleDevice: the format is of a later edgec.
    """
    if code[: len(MAGIC)] != MAGIC:
        raise ArtifactError(
            "the artifact's code is no GPU code: its config and its code do not belong together"
        )
    start = len(MAGIC) + 8
    length = int.from_bytes(code[len(MAGIC) : start], "little")
    if length > min(_HEADER_LIMIT, len(code) - start):
        raise ArtifactError("the artifact's GPU code is truncated")
    try:
        header = msgspec.json.decode(code[start : start + length], type=GpuCode)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the header of the artifact's GPU code is damaged: {error}") from error
    if header.format > FORMAT:
        raise IncompatibleDevice(
            f"the artifact's GPU code has format {header.format}, this edgec reads {FORMAT}: install a newer edgec"
        )
    content = memoryview(code)[start + length :]
    _check(header, len(content))
    return header, content


def specialised(header: GpuCode, shapes: Sequence[tuple[int, ...]], weights: int) -> GpuCode:
    """A program for shapes of its first inputs, whose last `weights` inputs are weights."""
    left = len(header.inputs) - weights

    def changed(operand: Operand) -> Operand:
        if operand.place != "input":
            return operand
        if operand.index >= left:
            return msgspec.structs.replace(operand, place="weight", index=operand.index - left)
        if operand.index < len(shapes):
            return msgspec.structs.replace(operand, shape=shapes[operand.index])
        return operand

    every = [changed(one) for one in header.inputs]
    steps = tuple(
        msgspec.structs.replace(step, arguments=tuple(map(changed, step.arguments)))
        if isinstance(step, Launch)
        else step
        for step in header.steps
    )
    return msgspec.structs.replace(
        header,
        inputs=tuple(one for one in every if one.place == "input"),
        weights=tuple(one for one in every if one.place == "weight"),
        steps=steps,
    )


def pack_programs(programs: Mapping[str, bytes]) -> bytes:
    """A layer with several programs: `PROGRAMS`, the length of a table of sizes, the table, and all codes."""
    table = msgspec.json.encode({name: len(code) for name, code in programs.items()})
    return PROGRAMS + len(table).to_bytes(8, "little") + table + b"".join(programs.values())


def unpack_programs(content: bytes) -> dict[str, bytes]:
    """The code layers of programs by their names, each of them checked.

    Raises:
        ArtifactError: the content is no such layer, or damaged.
        IncompatibleDevice: the format is of a later edgec.
    """
    begin = len(PROGRAMS) + 8
    size = int.from_bytes(content[len(PROGRAMS) : begin], "little")
    at = begin + size
    try:
        table = msgspec.json.decode(content[begin:at], type=dict[str, Offset])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the table of the artifact's GPU programs is damaged: {error}") from error
    programs = {}
    for name, length in table.items():
        programs[name] = content[at : at + length]
        unpack(programs[name])
        at += length
    return programs


def is_programs(content: bytes) -> bool:
    """Whether it is a layer with several programs."""
    return content[: len(PROGRAMS)] == PROGRAMS


def _check(header: GpuCode, size: int) -> None:
    """Check that everything lies where it can: a header that does not would write over other memory."""
    for binary in header.binaries:
        if binary.offset + binary.size > size:
            raise ArtifactError("the artifact's GPU code is truncated: a binary ends behind the file")
    declared = {"input": header.inputs, "weight": header.weights, "output": header.outputs}
    known = {name for binary in header.binaries for name in binary.kernels}
    for step in header.steps:
        if isinstance(step, Launch) and step.kernel not in known:
            raise ArtifactError(
                f"the artifact's GPU code launches {step.kernel!r}, which none of its binaries has"
            )
        for operand in operands_of(step):
            if operand.place == "arena":
                fits = operand.offset + operand.bytes <= header.arena_bytes
            else:
                fits = operand.index < len(declared[operand.place]) and (
                    operand.bytes <= declared[operand.place][operand.index].bytes
                )
            if not fits:
                raise ArtifactError("the artifact's GPU code is damaged: a step reaches beyond a buffer")


def operands_of(step: Step) -> tuple[Operand, ...]:
    """All tensors that a step touches."""
    if isinstance(step, Launch):
        return step.arguments
    if isinstance(step, HostCall):
        return (*step.operands, *step.results)
    return (step.source, step.target)


def capability_of(arch: str) -> tuple[int, int]:
    """The compute capability of an architecture: `sm_87` → (8, 7); `sm_90a` → (9, 0)."""
    digits = "".join(filter(str.isdigit, arch))
    return int(digits[:-1] or 0), int(digits[-1:] or 0)


# Processors with a GPU. "Binary compatibility is supported only for the desktop. It is not supported for Tegra. Also,
# the binary compatibility between desktop and Tegra is not supported." (CUDA C++ Programming Guide)
_IN_PROCESSORS = {(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0)}


def nearest(architectures: Iterable[tuple[str, str]], capability: tuple[int, int]) -> tuple[str, str] | None:
    """The kind and architecture of the binaries that a device of this compute capability runs best: the nearest cubins,
    else PTX; None where it runs none of them.
    """
    best: tuple[tuple[int, int, int], tuple[str, str]] | None = None
    for kind, arch in architectures:
        own = capability_of(arch)
        alone = arch[-1].isalpha()  # sm_90a runs on nothing else
        exact = alone or not _IN_PROCESSORS.isdisjoint((own, capability))
        if kind == "cubin":
            fits = own == capability if exact else own[0] == capability[0] and own[1] <= capability[1]
        else:
            fits = own <= capability and not alone
        if fits and (best is None or ((kind == "cubin"), *own) > best[0]):
            best = ((int(kind == "cubin"), *own), (kind, arch))
    return None if best is None else best[1]


def choose_binaries(header: GpuCode, capability: tuple[int, int]) -> list[Binary]:
    """The binaries that a device of this compute capability should load: the nearest cubins, else PTX.

    Raises:
        IncompatibleDevice: there is neither; the message names both sides.
    """
    if not header.binaries:
        return []  # all of it runs on the host
    best = nearest(dict.fromkeys((binary.kind, binary.arch) for binary in header.binaries), capability)
    if best is None:
        names = ", ".join(sorted({binary.arch for binary in header.binaries}))
        raise IncompatibleDevice(
            f"the artifact has code for {names}; this GPU is sm_{capability[0]}{capability[1]}.\n"
            "Compile it for a target of this GPU (`edgec targets list`)."
        )
    return [binary for binary in header.binaries if (binary.kind, binary.arch) == best]
