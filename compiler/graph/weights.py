"""Move the constants out of the module, so that code and weights can be stored apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.ir import GenericConst

from edgec.compiler.graph.rewrite import map_leaves, with_value
from edgec.compiler.graph.sources import node_of

Weights = dict[str, npt.NDArray[np.generic]]


def lift_weights(mod: tvm.IRModule, entry: str = "main") -> tuple[tvm.IRModule, Weights]:
    """Turn every tensor constant of `entry` into a trailing parameter.

    Requires: all compute is in `call_tir`; constants appear only as arguments of calls or as results.
    Ensures: `entry` holds no tensor constant; equal constants (the same tensor) share one parameter.

    Returns:
        the new module, and the arrays in the order of the parameters, named `w<k>` or `w<k>_n<index>` after
        the source node that uses them first.
    """
    function = mod[entry]
    weights: Weights = {}
    params: list[relax.Var] = []
    seen: dict[tuple[str, tuple[int, ...], bytes], relax.Var] = {}

    def lift(constant: GenericConst, user: str) -> relax.Var:
        array = np.array(constant.value.numpy(), order="C")
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in seen:
            node = node_of(user)
            name = f"w{len(params)}" + (f"_n{node}" if node is not None else "")
            param = relax.Var(name, relax.TensorType(array.shape, str(constant.ty.dtype.dtype)))
            weights[name] = array
            params.append(param)
            seen[key] = param
        return seen[key]

    blocks = []
    for block in function.body.blocks:
        bindings = [with_value(b, map_leaves(b.value, _lifter(lift, b.var.name))) for b in block.bindings]
        blocks.append(type(block)(bindings))
    result = map_leaves(function.body.body, _lifter(lift, ""))
    lifted = relax.Function(
        [*function.params, *params],
        relax.SeqExpr(blocks, result),
        function.ret_ty,
        function.is_pure,
        function.attrs,
    ).with_attr("num_input", len(function.params))
    functions = {gv: (lifted if gv.name_hint == entry else f) for gv, f in mod.functions.items()}
    return relax.transform.Normalize()(tvm.IRModule(functions, attrs=mod.attrs)), weights


def _lifter(
    lift: Callable[[GenericConst, str], relax.Var], user: str
) -> Callable[[tvm.ir.Expr], tvm.ir.Expr]:
    def replace(leaf: tvm.ir.Expr) -> tvm.ir.Expr:
        return lift(leaf, user) if isinstance(leaf, GenericConst) else leaf

    return replace
