"""Relax modules made by hand, for the passes' tests: before, expected, and what either computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

Body = Callable[..., tvm.ir.Expr]


def module_of(inputs: Mapping[str, Sequence[int]], body: Body) -> tvm.IRModule:
    """A module with `main` over float32 tensors; `body(builder, *params)` emits bindings and returns the result."""
    builder = relax.BlockBuilder()
    params = [relax.Var(name, relax.TensorType(list(shape), "float32")) for name, shape in inputs.items()]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder, *params))
        builder.emit_func_output(result)
    return builder.finalize()


def chain(*steps: Callable[[tvm.ir.Expr], tvm.ir.Expr]) -> Body:
    """A body that applies `steps` to its only parameter, naming the results after source nodes 0, 1, …"""

    def body(builder: relax.BlockBuilder, x: tvm.ir.Expr) -> tvm.ir.Expr:
        for index, step in enumerate(steps):
            x = builder.emit(step(x), name_hint=f"n{index}_v")
        return x

    return body


def same_structure(got: tvm.IRModule, expected: tvm.IRModule) -> None:
    """Both are the same but for the names of variables and for bindings of one variable to another."""
    got, expected = (relax.transform.CanonicalizeBindings()(mod) for mod in (got, expected))
    tvm.ir.assert_structural_equal(got, expected, map_free_vars=True)


def outputs(mod: tvm.IRModule, *arrays: np.ndarray) -> list[np.ndarray]:
    """What `main` computes, built without a pass of ours."""
    with tvm.target.Target("llvm"):
        lowered = relax.transform.DecomposeOpsForInference()(mod)
    vm = relax.VirtualMachine(tvm.compile(lowered, target="llvm"), tvm.cpu())
    made = vm["main"](*(tvm.runtime.tensor(array) for array in arrays))
    return [part.numpy() for part in ([made] if isinstance(made, tvm.runtime.Tensor) else made)]


def same_numbers(got: tvm.IRModule, expected: tvm.IRModule, tolerance: float, seed: int = 0) -> None:
    """Both compute the same for noise, up to `tolerance` times the largest value."""
    rng = np.random.default_rng(seed)
    shapes = [[int(n) for n in param.ty.shape.values] for param in expected["main"].params]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    pairs = zip(outputs(got, *arrays), outputs(expected, *arrays), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def const(array: np.ndarray | float | Sequence[float]) -> tvm.ir.Expr:
    """A float32 constant."""
    return relax.const(np.asarray(array, np.float32), "float32")


def bindings_of(mod: tvm.IRModule) -> list[relax.VarBinding]:
    """The bindings of `main`, in order."""
    return [binding for block in mod["main"].body.blocks for binding in block.bindings]
