"""Numbers of 8 bits and fewer, and bfloat16, that no CPU computes with: float32 values on the narrow type's grid.

Sources: the ONNX standard, "Float stored in 8 bits" and the operators Cast-25 and QuantizeLinear-25.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import TensorProto, helper
from tvm import relax, te, tirx

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import Decline, Node, Refusal, converts


@dataclass(frozen=True)
class Float:
    """A narrow float: bits of the fraction, exponent of the smallest normal number, largest number.

    ``infinite`` and ``signed_zero`` say whether it has these; ``nan`` whether it has that.
    """

    fraction: int
    smallest: int
    largest: float
    infinite: bool = False
    signed_zero: bool = True
    nan: bool = True


FLOATS = {
    TensorProto.FLOAT8E4M3FN: Float(3, -6, 448.0),
    TensorProto.FLOAT8E4M3FNUZ: Float(3, -7, 240.0, signed_zero=False),
    TensorProto.FLOAT8E5M2: Float(2, -14, 57344.0, infinite=True),
    TensorProto.FLOAT8E5M2FNUZ: Float(2, -15, 57344.0, signed_zero=False),
    TensorProto.FLOAT4E2M1: Float(1, 0, 6.0, nan=False),
}
INTEGERS = {
    TensorProto.INT4: (4, True),
    TensorProto.UINT4: (4, False),
    TensorProto.INT2: (2, True),
    TensorProto.UINT2: (2, False),
}
NARROW = frozenset({*FLOATS, *INTEGERS, TensorProto.BFLOAT16})

Element = Callable[[Expr], Expr]


@converts("Cast")
def _cast(node: Node) -> Expr:
    kind = int(node.attrs["to"])
    if kind not in NARROW:
        raise Decline
    return cast(node, node.input(0), kind, saturate=bool(node.attrs.get("saturate", 1)))


@converts("CastLike")
def _cast_like(node: Node) -> Expr:
    kind = result_type(node)
    if kind in NARROW:
        return cast(node, node.input(0), kind, saturate=bool(node.attrs.get("saturate", 1)))
    if not kind:
        raise Refusal("the type that it casts to is unknown")
    return relax.op.astype(node.input(0), str(helper.tensor_dtype_to_np_dtype(kind)))


def result_type(node: Node) -> int:
    """The number of the element type of a node's first output; 0 where the model does not tell."""
    value = node.scope.importer.types.get(node.outputs[0])
    return int(value.type.tensor_type.elem_type) if value is not None else 0


def cast(node: Node, x: Expr, kind: int, *, saturate: bool) -> Expr:
    """``x`` cast to a narrow type: floats to the nearest number, integers cut off and wrapped."""
    if kind == TensorProto.BFLOAT16:
        return _mapped(node, x, _half)
    form = FLOATS.get(kind)
    element = _wrapped(*INTEGERS[kind]) if form is None else _nearest(form, saturate=saturate)
    return _mapped(node, x, element)


def quantised(node: Node, steps: Expr, kind: int) -> Expr:
    """Steps (whole ones, for an integer type) put on the grid of a narrow type, saturated."""
    if kind in FLOATS:
        return cast(node, steps, kind, saturate=True)
    bits, signed = INTEGERS[kind]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return node.emit(relax.op.clip(steps, low, high))


def _mapped(node: Node, x: Expr, element: Element) -> Expr:
    x = node.emit(relax.op.astype(x, "float32"))

    def compute(source: te.Tensor) -> te.Tensor:
        return te.compute(source.shape, lambda *place: element(source(*place)), name="narrowed")

    return node.builder.emit_te(compute, x)


def _f(value: float) -> Expr:
    return tirx.FloatImm("float32", value)


def _i(value: int) -> Expr:
    return tirx.IntImm("int32", value)


def _nearest(form: Float, *, saturate: bool) -> Element:
    """The nearest number of the type, ties to even: a whole number of steps that are powers of two."""

    def element(x: Expr) -> Expr:
        exponent = (tirx.reinterpret("int32", x) >> _i(23)) & _i(255)
        exponent = tirx.max(exponent, _i(127 + form.smallest))
        step = tirx.reinterpret("float32", (exponent - _i(form.fraction)) << _i(23))
        y = tirx.nearbyint(x / step) * step
        top, over = _f(form.largest), tirx.abs(y) > _f(form.largest)
        if saturate or not form.nan:
            y = tirx.Select(over, tirx.Select(x < _f(0.0), _f(0.0) - top, top), y)
        elif form.infinite:
            infinity = tirx.reinterpret("float32", _i(0x7F800000))
            y = tirx.Select(over, tirx.Select(x < _f(0.0), _f(0.0) - infinity, infinity), y)
        else:
            y = tirx.Select(over, tirx.reinterpret("float32", _i(0x7FC00000)), y)
        if not form.signed_zero:
            y = tirx.Select(tirx.abs(y) == _f(0.0), _f(0.0), y)
        if not form.nan:
            y = tirx.Select(tirx.isnan(x), top, y)
        return y

    return element


def _half(x: Expr) -> Expr:
    """The nearest bfloat16, ties to even: the upper half of a float32, plus one where the lower half says so."""
    bits = tirx.reinterpret("int32", x)
    rounded = (bits + _i(0x7FFF) + ((bits >> _i(16)) & _i(1))) & _i(-0x10000)
    return tirx.Select(tirx.isnan(x), x, tirx.reinterpret("float32", rounded))


def _wrapped(bits: int, signed: bool) -> Element:
    def element(x: Expr) -> Expr:
        low = x.astype("int32") & _i((1 << bits) - 1)
        if signed:
            low = tirx.Select(low >= _i(1 << bits - 1), low - _i(1 << bits), low)
        return low.astype("float32")

    return element
