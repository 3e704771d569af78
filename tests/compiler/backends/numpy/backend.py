"""A back end of the tests: compiles element-wise graphs to calls of numpy, and refuses all others."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.s_tir import SBlock
from tvm.tirx import PrimFunc

from edgec.compiler.backends.interface import Backend, Library, OperandsOf
from edgec.compiler.errors import KernelUnsupported
from edgec.compiler.graph.rewrite import dtype_of, leaves, op_name, shape_of
from edgec.compiler.progress import Progress
from tests.compiler.backends.numpy.device import FUNCTIONS, MAGIC

ROOT = Path(__file__).parents[4]
BINARY = {
    tirx.Add: "add", tirx.Sub: "subtract", tirx.Mul: "multiply", tirx.Div: "divide", tirx.Max: "maximum",
    tirx.Min: "minimum",
}  # fmt: skip


@dataclass(frozen=True)
class NumpyRunner:
    description: str = "numpy"
    is_hardware: bool = True

    def command(self, arguments: list[str], python_path: Path) -> tuple[list[str], dict[str, str]]:
        return (
            [sys.executable, "-m", "tests.compiler.backends.numpy.device", *arguments],
            {**os.environ, "PYTHONPATH": str(ROOT)},
        )


class NumpyBackend(Backend):
    def choose_layouts(self, mod: tvm.IRModule, operands_of: OperandsOf, error_budget: float) -> tvm.IRModule:
        return mod

    def schedule(self, func: PrimFunc, threads: int) -> PrimFunc:
        steps_of(func)  # refuses now what `build` could not translate
        return func

    def build(self, mod: tvm.IRModule, cache_dir: Path | None, progress: Progress) -> Library:
        main, calls = mod["main"], []
        for block in main.body.blocks:
            for binding in block.bindings:
                if op_name(binding.value) == "call_tir":
                    kernel, arguments = binding.value.args
                    calls.append(
                        {
                            "kernel": str(kernel.name_hint),
                            "arguments": [str(argument.name) for argument in arguments.fields],
                            "result": str(binding.var.name),
                            "shape": shape_of(binding.var),
                            "dtype": dtype_of(binding.var),
                        }
                    )
                elif op_name(binding.value):
                    raise KernelUnsupported(f"numpy has no {op_name(binding.value)} between kernels")
                else:
                    result = binding.value
        kernels = {
            str(gv.name_hint): steps_of(f) for gv, f in mod.functions.items() if isinstance(f, PrimFunc)
        }
        content = {
            "parameters": [str(param.name) for param in main.params],
            "calls": calls,
            "results": [str(leaf.name) for leaf in leaves(result)],
            "kernels": kernels,
        }
        return Library(MAGIC + json.dumps(content).encode())

    def runner(self) -> NumpyRunner:
        return NumpyRunner()


def steps_of(func: PrimFunc) -> list[dict[str, Any]]:
    """Each block of a kernel as an expression over whole arrays."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}), debug_mask="none", error_render_level="none")
    buffers = list(func.params)
    steps = []
    for handle in sch.get_child_blocks(sch.get_sblock("root")):
        block = sch.get(handle)
        store = block.body
        if not isinstance(store, tirx.BufferStore) or any(var.iter_type != 0 for var in block.iter_vars):
            raise KernelUnsupported(
                f"the back end for numpy maps elements only, and {block.name_hint} does not"
            )
        value = _expression(store.value, block, buffers)
        if not any(store.buffer.same_as(known) for known in buffers):
            buffers.append(store.buffer)
        place = next(i for i, known in enumerate(buffers) if store.buffer.same_as(known))
        shape = [int(d) for d in store.buffer.ty.shape]
        steps.append(
            {"buffer": place, "shape": shape, "dtype": str(store.buffer.ty.dtype.dtype), "value": value}
        )
    return steps


def _expression(expr: Any, block: SBlock, buffers: list[tirx.Buffer]) -> Any:
    if isinstance(expr, tirx.FloatImm | tirx.IntImm):
        return float(expr.value)
    if isinstance(expr, TensorLoad):
        place = next(i for i, buffer in enumerate(buffers) if expr.source.same_as(buffer))
        return ["load", place, [_axis(index, block) for index in expr.indices]]
    if type(expr) in BINARY:
        return [BINARY[type(expr)], *(_expression(part, block, buffers) for part in (expr.a, expr.b))]
    name = str(getattr(getattr(expr, "op", None), "name", type(expr).__name__)).removeprefix("tirx.")
    if name not in FUNCTIONS:
        raise KernelUnsupported(f"the back end for numpy knows no {name}")
    return [name, *(_expression(argument, block, buffers) for argument in expr.args)]


def _axis(index: Any, block: SBlock) -> int | None:
    """The axis of the result along which a load runs; None for one that stands still."""
    if isinstance(index, tirx.IntImm):
        return None
    found = [i for i, var in enumerate(block.iter_vars) if index.same_as(var.var)]
    if not found:
        raise KernelUnsupported(
            f"the back end for numpy reads elements in their order, and {block.name_hint} does not"
        )
    return found[0]
