"""Kernels that read the model's inputs where the caller has them.

Arrays of numpy lie on a boundary of 16 bytes, kernels expect 64: without this, each run would first copy large inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Tuple, Var
from tvm.tirx import PrimFunc

from edgec.compiler.graph.rewrite import op_name
from edgec.compiler.lowered import Program

_SAME_MEMORY = ("reshape", "call_pure_packed")  # of a value: views


def input_reads(mod: tvm.IRModule, entry: str = "main") -> Mapping[str, frozenset[int]]:
    """Which parameters of which kernels are an input of `entry`, or a view of one, in any call."""
    function = mod[entry]
    inputs: set[relax.Var] = set(function.params)
    found: dict[str, frozenset[int]] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            name = op_name(value)
            if name == "call_tir":
                operands = value.args[1]
                operands = operands.fields if isinstance(operands, Tuple) else [operands]
                read = frozenset(n for n, one in enumerate(operands) if _is_one_of(one, inputs))
                symbol = str(value.args[0].name_hint)
                found[symbol] = found.get(symbol, frozenset()) | read
            elif _is_one_of(value, inputs) or (
                name in _SAME_MEMORY and any(_is_one_of(arg, inputs) for arg in value.args)
            ):
                inputs.add(binding.var)
    return found


def _is_one_of(value: object, inputs: Collection[relax.Var]) -> bool:
    return isinstance(value, relax.Var) and value in inputs


def read_anywhere(func: PrimFunc, positions: Collection[int]) -> PrimFunc:
    """`func` with the parameters at `positions` on no boundary but that of their elements."""
    replaced = {func.params[n]: _unaligned(func.params[n]) for n in positions}
    if not replaced:
        return func

    def rename(var: Var) -> Var:
        return replaced.get(var, var)

    params = [replaced.get(param, param) for param in func.params]
    body = tvm_ffi.structural_map(func.body, (Var, rename))
    return PrimFunc(params, body, func.ret_type, attrs=func.attrs)


def reads_anywhere(program: Program, functions: Collection[PrimFunc]) -> bool:
    """Whether all kernels of a program read its inputs on no boundary but that of their elements."""
    by_symbol = {str(function.attrs["global_symbol"]): function for function in functions}
    return all(
        int(by_symbol[symbol].params[n].ty.data_alignment) <= _element_bytes(by_symbol[symbol].params[n])
        for symbol, operands in program.calls
        for n, operand in enumerate(operands)
        if program.operands[operand].kind == "input"
    )


def _element_bytes(param: Var) -> int:
    return max(1, int(tvm.DataType(str(param.ty.dtype.dtype)).bits) // 8)


def _unaligned(param: Var) -> Var:
    kind = param.ty
    boundary = _element_bytes(param)
    return tirx.decl_buffer(
        list(kind.shape), kind.dtype.dtype, str(param.name), data_alignment=boundary, scope=kind.storage_scope
    )
