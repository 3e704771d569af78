"""Casts to types without CPU arithmetic: float32 values rounded to the narrow type's grid.

Sources: the ONNX standard, "Float stored in 8 bits" and the operators Cast-25 and QuantizeLinear-25.
"""

from __future__ import annotations

from onnx import TensorProto, helper
from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    LeaveToTvm,
    Node,
    converts,
    dtype_of,
)
from edgec.compiler.kernels.narrow_types import (
    Element,
    NarrowFloat,
    nearest_bfloat16,
    nearest_float,
    power_of_two,
    rounded,
    wrapped_integer,
)

FLOATS = {
    TensorProto.FLOAT8E4M3FN: NarrowFloat(3, -6, 448.0),
    TensorProto.FLOAT8E4M3FNUZ: NarrowFloat(3, -7, 240.0, signed_zero=False),
    TensorProto.FLOAT8E5M2: NarrowFloat(2, -14, 57344.0, infinite=True),
    TensorProto.FLOAT8E5M2FNUZ: NarrowFloat(2, -15, 57344.0, signed_zero=False),
    TensorProto.FLOAT4E2M1: NarrowFloat(1, 0, 6.0, nan=False),
}
INTEGERS = {
    TensorProto.INT4: (4, True),
    TensorProto.UINT4: (4, False),
    TensorProto.INT2: (2, True),
    TensorProto.UINT2: (2, False),
}
NARROW = frozenset({*FLOATS, *INTEGERS, TensorProto.BFLOAT16, TensorProto.FLOAT8E8M0})


@converts("Cast")
def _cast(node: Node) -> Expr:
    kind = int(node.attrs["to"])
    if kind not in NARROW:
        raise LeaveToTvm
    return _narrowed(node, kind)


def _narrowed(node: Node, kind: int) -> Expr:
    saturate = bool(node.attrs.get("saturate", 1))
    if kind == TensorProto.FLOAT8E8M0:
        mode = str(node.attrs.get("round_mode", "up"))
        if mode not in ("up", "down", "nearest"):
            raise CannotConvert(f"its rounding {mode!r} is unknown")
        x = node.emit(relax.op.astype(node.input(0), "float32"))
        return _mapped(node, x, power_of_two(mode, saturate=saturate))
    return cast(node, node.input(0), kind, saturate=saturate)


@converts("CastLike")
def _cast_like(node: Node) -> Expr:
    kind = result_type(node)
    if kind in NARROW:
        return _narrowed(node, kind)
    if not kind:
        raise CannotConvert("the type that it casts to is unknown")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if dtype.kind not in "biuf":
        raise CannotConvert(f"casts to {dtype} are not compiled")
    return relax.op.astype(node.input(0), str(dtype))


def result_type(node: Node) -> int:
    """The number of the element type of a node's first output; 0 where the model does not declare it."""
    importer, name = node.scope.importer, node.outputs[0]
    value = importer.types.get(name)
    return int(value.type.tensor_type.elem_type) if value is not None else importer.inner_types.get(name, 0)


def cast(node: Node, x: Expr, kind: int, *, saturate: bool) -> Expr:
    """`x` cast to a narrow type: to the nearest number; integers wrap on overflow."""
    if kind in INTEGERS and dtype_of(x) not in ("bool", "float16", "float64"):
        return _mapped(node, x, wrapped_integer(*INTEGERS[kind]))
    x = node.emit(relax.op.astype(x, "float32"))
    if kind in INTEGERS:
        return _mapped(node, x, wrapped_integer(*INTEGERS[kind]))
    if kind == TensorProto.BFLOAT16:
        return _mapped(node, x, nearest_bfloat16)
    return _mapped(node, x, nearest_float(FLOATS[kind], saturate=saturate))


def quantised(node: Node, steps: Expr, kind: int) -> Expr:
    """Quantisation steps (rounded, for an integer type) on the grid of a narrow type, saturated."""
    if kind in FLOATS:
        return cast(node, steps, kind, saturate=True)
    bits, signed = INTEGERS[kind]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return node.emit(relax.op.clip(steps, low, high))


def _mapped(node: Node, x: Expr, element: Element) -> Expr:
    return node.builder.emit_te(lambda source: rounded(source, element), x, primfunc_name_hint="narrowed")
