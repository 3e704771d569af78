"""The code layer of an artifact for a GPU: kernels lowered and compiled side by side, and the steps of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.lowering import DeviceKernel, lower_kernel
from edgec.compiler.backends.cuda.program import GpuProgram, ProgramBuilder, planned
from edgec.compiler.backends.cuda.schedules import schedule_generic
from edgec.compiler.backends.interface import RESULTS
from edgec.compiler.progress import Progress, Silent
from edgec.runtime.gpu.code import ALIGNMENT, Binary, GpuCode, Launch, Operand, pack
from edgec.targets.detection import usable_cores


def build_library(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    architectures: Sequence[tuple[str, str]],
    compile_text: Callable[[str, str, str], bytes],
    progress: Progress,
) -> bytes:
    """The content of a code layer for a module of scheduled kernels and `main`.

    Args:
        mod: the module; every kernel has its global symbol.
        target: what the kernels are lowered for, with a host.
        architectures: kind and name of each binary to make, such as `("cubin", "sm_87")`.
        compile_text: makes a binary of a source text, for a kind and an architecture.
        progress: told about stages.

    Raises:
        KernelUnsupported: the module does something that a GPU's program cannot.
    """
    with target:
        mod, plan = planned(mod)
    functions = {str(gv.name_hint): f for gv, f in mod.functions.items() if isinstance(f, PrimFunc)}
    kernels = {symbol: lower_kernel(symbol, func, target) for symbol, func in sorted(functions.items())}
    program = ProgramBuilder(mod, plan, kernels).build()
    used = [kernel for kernel in kernels.values() if kernel.launches]
    progress.stage("device code", len(used) * len(architectures))
    binaries, content = _binaries(used, architectures, compile_text, progress)
    return pack(_header(program, binaries), content)


def build_function(
    name: str,
    func: PrimFunc,
    target: tvm.target.Target,
    architectures: Sequence[tuple[str, str]],
    compile_text: Callable[[str, str, str], bytes],
) -> bytes:
    """The content of a code layer for one function, whose last parameters are its results.

    Args:
        name: the function's.
        func: not scheduled yet; its attribute `RESULTS` counts the results.
        target, architectures, compile_text: as for `build_library`.

    Raises:
        KernelUnsupported: it has no schedule.
    """
    count = int(func.attrs[RESULTS])
    return build_scheduled(name, schedule_generic(func, target), count, target, architectures, compile_text)


def build_scheduled(
    name: str,
    func: PrimFunc,
    count: int,
    target: tvm.target.Target,
    architectures: Sequence[tuple[str, str]],
    compile_text: Callable[[str, str, str], bytes],
) -> bytes:
    """The content of a code layer for one scheduled function, whose last `count` parameters are its results.

    Raises:
        KernelUnsupported: it cannot be lowered.
    """
    kernel = lower_kernel(name, func, target)
    params = [(tuple(int(n) for n in one.ty.shape), str(one.ty.dtype.dtype)) for one in func.params]
    given = len(params) - count
    operands = [
        Operand(place="input", index=n, shape=shape, dtype=dtype)
        if n < given
        else Operand(place="output", index=n - given, shape=shape, dtype=dtype)
        for n, (shape, dtype) in enumerate(params)
    ]
    arena = 0
    for size in kernel.scratch:
        operands.append(Operand(place="arena", offset=arena, shape=(size,), dtype="uint8"))
        arena += -(-size // ALIGNMENT) * ALIGNMENT
    program = GpuProgram(arena_bytes=arena, inputs=operands[:given], outputs=operands[given : len(params)])
    program.steps += [
        Launch(
            kernel=one.name, layer=name, grid=one.grid, block=one.block, shared_bytes=one.shared_bytes,
            arguments=tuple(operands[number] for number in one.arguments),
        )
        for one in kernel.launches
    ]  # fmt: skip
    binaries, content = _binaries([kernel], architectures, compile_text, Silent())
    return pack(_header(program, binaries), content)


def _binaries(
    kernels: Sequence[DeviceKernel],
    architectures: Sequence[tuple[str, str]],
    compile_text: Callable[[str, str, str], bytes],
    progress: Progress,
) -> tuple[list[Binary], bytes]:
    """All binaries; equal ones are stored once."""
    jobs = [(kernel, kind, arch) for kind, arch in architectures for kernel in kernels]

    def compile_one(job: tuple[DeviceKernel, str, str]) -> bytes:
        made = compile_text(job[0].source, job[1], job[2])
        progress.advance()
        return made

    with ThreadPoolExecutor(min(usable_cores(), max(1, len(jobs)))) as threads:
        made = list(threads.map(compile_one, jobs))
    content = bytearray()
    places: dict[bytes, int] = {}
    binaries = []
    for (kernel, kind, arch), binary in zip(jobs, made, strict=True):
        digest = hashlib.sha256(binary).digest()
        if digest not in places:
            places[digest] = len(content)
            content += binary + bytes(-len(binary) % 64)
        names = tuple(dict.fromkeys(launch.name for launch in kernel.launches))
        binaries.append(
            Binary(arch=arch, kind=kind, kernels=names, offset=places[digest], size=len(binary))  # type: ignore[arg-type]
        )
    return binaries, bytes(content)


def _header(program: GpuProgram, binaries: Sequence[Binary]) -> GpuCode:
    return GpuCode(
        format=2 if any(one.varies for one in program.outputs) else 1,
        arena_bytes=program.arena_bytes,
        inputs=tuple(program.inputs),
        weights=tuple(program.weights),
        outputs=tuple(program.outputs),
        steps=tuple(program.steps),
        binaries=tuple(binaries),
    )
