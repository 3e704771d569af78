"""A Relax block builder that names every binding after its ONNX node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from edgec.compiler.frontends.relax.lists import NO_TENSOR, TensorList

Expr: TypeAlias = Any  # TVM's expression classes are made at import time and have no static types
Array: TypeAlias = npt.NDArray[Any]


class SourceBuilder(relax.BlockBuilder):  # type: ignore[misc]
    """A block builder whose bindings for node 12 have names that begin with `n12_`, nested expressions included."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = ""
        self.sizes: list[tuple[Expr, Expr]] = []  # formulas of sizes, and the names that stand for them

    def begin_node(self, index: int, op_type: str) -> None:
        """Name the bindings emitted from now on after the source node `index`."""
        self.prefix = f"n{index}_{op_type}"

    def emit(self, expr: Expr, name_hint: str = "") -> Expr:
        """Bind an expression, nested calls each to a variable of their own, and return its variable."""
        return super().emit(self._flatten(expr), self.prefix or name_hint)

    def _exit_function_scope(self, kind: Any, error: Any, trace: Any) -> None:  # noqa: ANN401 - as TVM has it
        """End the block that an error leaves open: TVM would warn of it on the terminal."""
        if kind is not None and not self._func._is_emit_func_output_called:
            self._end_block()
        super()._exit_function_scope(kind, error, trace)

    def normalize(self, expr: Expr) -> Expr:
        """Infer the expression's type; nested calls are bound to variables of this node."""
        return super().normalize(self._flatten(expr))

    def outputs(self, result: Expr | Sequence[Expr], names: Sequence[str]) -> list[Expr]:
        """The outputs of a node as variables or tensor constants.

        Args:
            result: what the node's converter returned.
            names: of the outputs; one without a name is not bound.
        """
        if isinstance(result, list | tuple):
            items = list(result)
        elif isinstance(result, relax.Tuple):
            items = list(result.fields)
        elif isinstance(result, NO_TENSOR):
            items = [result]
        else:
            bound = self._settled(result)
            fields = bound.ty.fields if isinstance(bound.ty, relax.TupleType) else None
            items = [bound] if fields is None else [relax.TupleGetItem(bound, i) for i in range(len(fields))]
        named = [i < len(names) and bool(names[i]) for i in range(len(items))]
        return [self._settled(item) if wanted else item for item, wanted in zip(items, named, strict=True)]

    def _settled(self, value: Expr) -> Expr:
        if isinstance(value, TensorList):
            return TensorList(tuple(self._settled(item) for item in value.items), value.dtype)
        if isinstance(value, NO_TENSOR):
            return value
        if isinstance(value, relax.ShapeExpr):
            return constant([int(size) for size in value.values], "int64")
        if isinstance(value, relax.Var | tvm.ir.GenericConst):
            return value
        return self.emit(value)

    def _flatten(self, expr: Expr) -> Expr:
        if isinstance(expr, list | tuple):
            return relax.Tuple([self._leaf(item) for item in expr])
        if isinstance(expr, relax.Call):
            args = [self._leaf(arg) for arg in expr.args]
            if all(new is old for new, old in zip(args, expr.args, strict=True)):
                return expr
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._leaf(item) for item in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._leaf(expr.tuple_value), expr.index)
        return expr

    def _leaf(self, expr: Expr) -> Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._leaf(item) for item in expr.fields])
        if isinstance(expr, relax.Call | relax.TupleGetItem) and not _is_prim(expr):
            return self.emit(expr)
        return expr


def _is_prim(expr: Expr) -> bool:
    return bool(tvm.ir.is_prim_expr(expr))


# Types that no kernel computes with: their values are held in float32, rounded to the type's grid.
NARROW = frozenset(
    {"bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn"}
    | {"int4", "uint4", "int2", "uint2"}
)


def constant(value: Array | Sequence[Any] | float | int, dtype: str | None = None) -> Expr:
    """A Relax constant from anything that numpy accepts; 64-bit types are kept."""
    array = np.asarray(value, dtype=dtype)
    if array.dtype.name in NARROW:
        array = array.astype("float32")
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    # through a tensor: relax.const would narrow int64 and float64 arrays
    return relax.const(tvm.runtime.tensor(array))
