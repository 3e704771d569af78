"""The shared library of a model: its kernels, each an object file, and the program of the virtual machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import tvm
from tvm import relax
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.footprint import stack_bytes, workspace_bytes
from edgec.compiler.backends.cpu.link import link
from edgec.compiler.backends.cpu.objects import Objects
from edgec.compiler.backends.cpu.tir_pipeline import FRAME, NO_KERNEL, PIPELINE
from edgec.compiler.backends.interface import Library, ProgramLibrary
from edgec.compiler.backends.vm import finalise, finalise_program
from edgec.compiler.graph.control import Control
from edgec.compiler.graph.input_reads import reads_anywhere
from edgec.compiler.graph.weave import Piece
from edgec.compiler.progress import Progress
from edgec.targets.target import Target


def build_library(mod: tvm.IRModule, target: Target, objects: Objects, progress: Progress) -> Library:
    """The library of a module of scheduled kernels and `main`."""
    with tvm.target.Target(dict(target.tvm)):
        mod, plan = finalise(mod)
    functions = _kernels(mod)
    workspace = workspace_bytes(functions, target)  # while LLVM works on the last kernels
    kernels = objects.all(functions, progress)
    if plan.program is not None:
        program = replace(
            plan.program,
            workspace=workspace,
            stack=stack_bytes(kernels, target),
            unaligned=reads_anywhere(plan.program, functions),
        )
        plan = replace(plan, program=program)
    return Library(_linked(mod, kernels, target, progress), plan, tuple(kernels))


def build_program(
    pieces: Sequence[Piece],
    control: Sequence[Control],
    main: str,
    target: Target,
    objects: Objects,
    progress: Progress,
) -> ProgramLibrary:
    """The library of pieces and the control flow between them."""
    with tvm.target.Target(dict(target.tvm)):
        mod, plan, woven = finalise_program(pieces, control, main)
    functions = _kernels(mod)
    workspace = workspace_bytes(functions, target)
    kernels = objects.all(functions, progress)
    stack = stack_bytes(kernels, target)
    code = _linked(mod, kernels, target, progress)
    return ProgramLibrary(
        code,
        plan,
        tuple(kernels),
        weights=woven.weights,
        calls=woven.calls,
        workspace=workspace,
        stack=stack,
    )


def _kernels(mod: tvm.IRModule) -> list[PrimFunc]:
    return [f for f in mod.functions.values() if isinstance(f, PrimFunc)]


def _linked(mod: tvm.IRModule, kernels: Sequence[bytes], target: Target, progress: Progress) -> bytes:
    tvm_target = tvm.target.Target(dict(target.tvm))
    mod[NO_KERNEL] = _no_kernel()  # a library without machine code of its own would be written as C source
    executable = relax.build(mod, tvm_target, relax_pipeline=None, tir_pipeline=FRAME)
    progress.stage("link")
    return link(executable, kernels)


def build_functions(functions: Mapping[str, PrimFunc], target: Target) -> bytes:
    """The library of plain functions, called without the virtual machine."""
    host = tvm.target.Target(dict(target.tvm))
    built = tvm.compile(tvm.IRModule(dict(functions)), target=host, tir_pipeline=PIPELINE)
    return link(built)


def _no_kernel() -> PrimFunc:
    with IRBuilder() as builder, T.prim_func():
        T.func_name(NO_KERNEL)
        T.func_attr({"global_symbol": NO_KERNEL, "tirx.is_scheduled": True, "tirx.noalias": True})
        buffer = T.arg("nothing", T.buffer((1,), "float32"))
        T.buffer_store(buffer, T.float32(0), [0])
    return builder.get()
