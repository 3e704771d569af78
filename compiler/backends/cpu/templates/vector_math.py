"""Exponential, logarithm, sigmoid, tanh and erf as vector code.

LLVM has no vector form of `expf` and calls the C library once a lane. The forms here are polynomials that vectorise
with the loop around them. Error bounds are relative to the exact value unless said otherwise, float32.

Sources: `tanh` the rational minimax form of Eigen and XNNPACK (below 4e-7). The others are polynomials of our own,
fitted to the smallest largest error by Lawson's method: `exp` behind a Cody and Waite reduction (below 3e-7), `log` on
the mantissa from sqrt(1/2) to sqrt(2) (below 3e-7), `erf` (below 2.5e-7, absolute, and 5e-7 of the value between -0.5
and 0.5): no division, which costs as much as thirty multiplications.

`x * sigmoid(x)` is computed as one function, a quotient: 9 multiplications a vector in place of 14, which bound such
kernels on Zen 4. The constants of a Gaussian unit, `x * (1 + erf(x / sqrt(2))) * 0.5`, are not made part of the
polynomial: in its tail the last bits of 1 + erf are all that is left, and ONNX's own rounding of them is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.tirx import BufferStore, PrimFunc, Var

from edgec.compiler.backends.cpu.templates.requantisation import in_one_step

Expr: TypeAlias = tvm.ir.Expr

# (e^r - 1) / r for |r| up to ln(2) / 2
_EXP = (8.2900915211e-3, 4.1899173669e-2, 1.6667646579e-1, 4.9999140383e-1, 9.9999970245e-1)
_WHOLE = 12582912.0  # 1.5 * 2^23: what is added to it is rounded to a whole number, in the lowest bits
# (log(1 + f) - f + f²/2) / f³ for 1 + f from sqrt(1/2) to sqrt(2)
_LOG = (
    8.7004698770e-2, -1.4267545274e-1, 1.4914782095e-1, -1.6577578615e-1,
    1.9963062057e-1, -2.5001337183e-1, 3.3333910776e-1,
)  # fmt: skip
_TANH_TOP = (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
    1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
)  # fmt: skip
_TANH_BOTTOM = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
# erf(x) / x over u = 2 x² / 3.9² - 1, from -1 to 1: around its middle no terms cancel. Two terms fewer would do for the
# error in the middle, not in the tail of a Gaussian unit.
_ERF_END = 3.9  # erf differs from 1 by 3.5e-8 there
_ERF = (
    -7.047504769e-04, 1.874359674e-03, -1.539400779e-03, 2.056757919e-03, -7.025156170e-03, 1.339559723e-02,
    -1.960321516e-02, 2.924632095e-02, -4.276271164e-02, 5.787194893e-02, -7.380583882e-02, 9.067484736e-02,
    -1.095322296e-01, 1.346908212e-01, -1.810110807e-01, 3.625839651e-01,
)  # fmt: skip


def _f(value: float) -> Expr:
    return tirx.FloatImm("float32", value)


def _let(name: str, value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` of a value that is computed once."""
    var = Var(name, "float32")
    return tirx.Let(var, value, body(var))


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    total: Expr = _f(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + _f(c)
    return total


def _within(x: Expr, low: float, high: float) -> Expr:
    """`x` between two bounds; what is not a number stays so."""
    below = _let("x", x, lambda x: tirx.Select(_f(high) < x, _f(high), x))
    return _let("x", below, lambda x: tirx.Select(x < _f(low), _f(low), x))


def exp(x: Expr) -> Expr:
    """`e**x`; 0 below -86.99, infinity from 88.73 on."""
    # Half of 2^n, which is finite where 2^n is not (n = 128), has the exponent n + 126: the sum's lowest bits.
    whole = _f(_WHOLE + 126)

    def rounded(x: Expr) -> Expr:
        return _let("m", x * _f(1.44269504088896341) + whole, lambda m: scaled(x, m))

    def scaled(x: Expr, m: Expr) -> Expr:
        half = tirx.reinterpret("float32", tirx.reinterpret("int32", m) << tirx.IntImm("int32", 23))

        def reduced(n: Expr) -> Expr:
            # ln 2 in two parts: the first one's product with n is exact.
            r = x - n * _f(0.693359375) - n * _f(-2.12194440e-4)
            return _let("r", r, lambda r: _let("h", (_horner(r, _EXP) * r + _f(1.0)) * half, lambda h: h + h))

        return _let("n", m - whole, reduced)

    return _let("x", _within(x, -87.5, 89.0), rounded)


def log(x: Expr) -> Expr:
    """The natural logarithm: -infinity of zero, not a number below."""

    def parts(x: Expr) -> Expr:
        small = x < _f(1.17549435e-38)  # without a leading one: times 2^23
        scaled = tirx.Select(small, x * _f(8388608.0), x)
        return _let(
            "s", scaled, lambda s: _let("o", tirx.Select(small, _f(-23.0), _f(0.0)), lambda o: split(x, s, o))
        )

    def split(x: Expr, s: Expr, offset: Expr) -> Expr:
        bits = tirx.reinterpret("int32", s)
        power = (bits - tirx.IntImm("int32", 0x3F3504F3)) >> tirx.IntImm("int32", 23)
        mantissa = tirx.reinterpret("float32", bits - (power << tirx.IntImm("int32", 23)))
        f = mantissa - _f(1.0)
        return _let("e", power.astype("float32") + offset, lambda e: _let("f", f, lambda f: total(x, e, f)))

    def total(x: Expr, e: Expr, f: Expr) -> Expr:
        near = _let("q", f * f, lambda q: (_horner(f, _LOG) * f - _f(0.5)) * q + e * _f(-2.12194440e-4) + f)
        value = near + e * _f(0.693359375)
        value = tirx.Select(x < _f(math.inf), value, x)  # infinity and what is not a number stay so
        value = tirx.Select(x <= _f(0.0), tirx.Select(x < _f(0.0), _f(math.nan), _f(-math.inf)), value)
        return value

    return _let("x", x, parts)


def sigmoid(x: Expr) -> Expr:
    """`1 / (1 + e**-x)`."""
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - x))


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent."""

    def ratio(x: Expr) -> Expr:
        return _let("x2", x * x, lambda x2: x * _horner(x2, _TANH_TOP) / _horner(x2, _TANH_BOTTOM))

    return _let("x", _within(x, -7.90531110763549805, 7.90531110763549805), ratio)


def erf(x: Expr) -> Expr:
    """The error function."""

    def polynomial(x: Expr) -> Expr:
        return _let("u", x * x * _f(2.0 / _ERF_END**2) - _f(1.0), lambda u: _horner(u, _ERF) * x)

    return _let("x", _within(x, -_ERF_END, _ERF_END), polynomial)


def nearest(x: Expr) -> Expr:
    """The nearest whole number, the even one of two: TVM does not vectorise its own call of the same."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.nearbyint", x)


_FORMS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.exp": exp,
    "tirx.log": log,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
    "tirx.erf": erf,
    "tirx.nearbyint": nearest,
}


def with_vector_math(func: PrimFunc) -> PrimFunc:
    """`func` with the calls of float32 functions that have a vector form replaced by it."""

    def replace(call: Call) -> Expr:
        name = _function(call)
        return _FORMS[name](call.args[0]) if name in _FORMS else call

    body = tvm_ffi.structural_map(func.body, (tirx.Cast, in_one_step), order="pre")
    body = tvm_ffi.structural_map(body, (tirx.Mul, _unit))
    body = tvm_ffi.structural_map(body, (Call, replace))
    body = tvm_ffi.structural_map(body, (tirx.Cast, _rounded_once))
    return func.with_body(tvm_ffi.structural_map(body, (BufferStore, _bind_first)))


def _function(expr: Expr) -> str:
    """The name of the float32 function that `expr` calls; empty for anything else."""
    if not isinstance(expr, Call) or str(getattr(expr.ty, "dtype", "")) != "float32":
        return ""
    return str(getattr(expr.op, "name", ""))


def _unit(product: tirx.Mul) -> Expr:
    """`x * sigmoid(x)` as one function."""
    if str(product.ty.dtype) != "float32":
        return product
    for x, other in ((product.a, product.b), (product.b, product.a)):
        if _function(other) == "tirx.sigmoid" and tvm_ffi.structural_equal(x, other.args[0]):
            return _let("x", x, lambda x: x / (_f(1.0) + exp(_f(0.0) - x)))
    return product


def _rounded_once(cast: tirx.Cast) -> Expr:
    """A cast from float32 to bfloat16 that reads its operand once.

    TVM's own rounding repeats the operand, and LLVM's code generator refuses what an operand binds a second time.
    """
    if str(cast.ty.dtype) != "bfloat16" or str(cast.value.ty.dtype) != "float32":
        return cast

    def rounded(x: Expr) -> Expr:
        bits = tirx.reinterpret("uint32", x)
        up = ((bits >> _u32(16)) & _u32(1)) + _u32(0x7FFF)  # to the nearest, ties to even
        nearest = tirx.Select(
            x.equal(x), (bits + up) >> _u32(16), _u32(0x7FC0)
        )  # what is not a number stays so
        return tirx.reinterpret("bfloat16", nearest.astype("uint16"))

    return _let("x", cast.value, rounded)


def _u32(value: int) -> Expr:
    return tirx.IntImm("uint32", value)


def _bind_first(store: BufferStore) -> BufferStore:
    """`store` with the variables of its value bound before all else.

    TVM's vectoriser may look at an operand twice (a rescaled rounding of a sigmoid of a rescaled rounding, say), and
    then refuses a variable that it has bound already. Values under a condition stay where they are.
    """
    bound: list[tuple[Var, Expr]] = []
    conditional: list[Call] = []

    def record(call: Call) -> None:
        if getattr(call.op, "name", "") == "tirx.if_then_else":
            conditional.append(call)

    def lift(value: Expr) -> Expr:
        while isinstance(value, tirx.Let):
            bound.append((value.var, lifted(value.value)))
            value = value.body
        return value

    def lifted(value: Expr) -> Expr:
        return tvm_ffi.structural_map(value, (tirx.Let, lift), order="pre")

    tvm_ffi.structural_walk(store.value, (Call, record))
    value = store.value if conditional else lifted(store.value)
    for var, inner in reversed(bound):
        value = tirx.Let(var, inner, value)
    return BufferStore(store.buffer, value, store.indices) if bound else store
