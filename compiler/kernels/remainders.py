"""Quotients and remainders of integers, with broadcasting.

Division by zero and of the least number by -1 is the back end's: it is defined there, and does not trap.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from edgec.compiler.kernels.tir import Tir


def remainder(a: Tir, b: Tir, *, sign_of_dividend: bool) -> Tir:
    """`a` modulo `b`, element by element with numpy's broadcasting.

    Symbolic sizes are those of both, or 1 in the other.

    Args:
        a: the dividends, integers.
        b: the divisors, of the same type.
        sign_of_dividend: as C's `%`; otherwise the remainder has the sign of the divisor, as in Python.
    """
    function = tirx.truncmod if sign_of_dividend else tirx.floormod
    return _elementwise(function, a, b, "remainder")


def quotient(a: Tir, b: Tir) -> Tir:
    """`a` divided by `b` and cut off towards zero, element by element with numpy's broadcasting."""
    return _elementwise(tirx.truncdiv, a, b, "quotient")


def _elementwise(function: Callable[[Tir, Tir], Tir], a: Tir, b: Tir, name: str) -> Tir:
    rank = max(len(a.shape), len(b.shape))
    sizes = [[1] * (rank - len(x.shape)) + list(x.shape) for x in (a, b)]
    shape = [q if _is_one(p) else p for p, q in zip(*sizes, strict=True)]

    def at(x: Tir, place: tuple[Tir, ...]) -> Tir:
        own = place[len(place) - len(x.shape) :]
        return x(*[tirx.const(0, "int64") if _is_one(n) else i for n, i in zip(x.shape, own, strict=True)])

    return te.compute(shape, lambda *place: function(at(a, place), at(b, place)), name=name)


def _is_one(size: Tir) -> bool:
    return isinstance(size, int | tirx.IntImm) and int(size) == 1
