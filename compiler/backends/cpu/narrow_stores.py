"""Step of the lowering pipeline: 8-bit results on ARM are rounded and narrowed four vectors at a time.

`requantisation` leaves a conversion between limits for each vector of four results, which NEON takes seven instructions
for, and one or two to put it beside its neighbour. Its saturating instructions have the limits of a byte for nothing: a
vector is rounded and converted by one (`fcvtns`), two are narrowed to 16 bits together, where the zero point is added,
and four to bytes, which are one store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.tirx import Buffer, BufferStore, PrimFunc, SeqStmt, Stmt

LANES = 4
FEWEST, MOST = -128, 127
GROUPS = (4, 2, 1)  # vectors of a store, the most first
FUNCTION = "edgec_narrowed_{}"
_WIDE, _HALF = f"<{LANES} x float>", f"<{LANES} x i16>"


def function(vectors: int) -> str:
    """The code of the function that makes bytes of some vectors of floats, a zero point and limits.

    Args:
        vectors: of four lanes: 1, 2 or 4.
    """
    halves, count = max(vectors, 2), vectors * LANES
    names = [f"%v{number}" for number in range(vectors)]
    lines = [_rounded(name, number) for number, name in enumerate(names)]
    pairs = []
    for number in range(0, halves, 2):
        right = f"%h{number + 1}" if vectors > 1 else "poison"
        pair = f"%pair{number}"
        lines.append(_joined(pair, 4, "i16", f"%h{number}", right))
        lines.append(
            f"  {pair}.moved = call <8 x i16> @llvm.sadd.sat.v8i16(<8 x i16> {pair}, <8 x i16> %zeros)"
        )
        lines.append(f"  {pair}.codes = call <8 x i8> @llvm.aarch64.neon.sqxtn.v8i8(<8 x i16> {pair}.moved)")
        pairs.append(f"{pair}.codes")
    codes, width = pairs[0], 8
    if len(pairs) == 2:
        lines.append(_joined("%codes", 8, "i8", *pairs))
        codes, width = "%codes", 16
    for name, limit in (("smax", "low"), ("smin", "high")):
        lines += [
            f"  %{limit}.one = trunc i32 %{limit} to i8",
            *_splat(f"%{limit}.all", f"%{limit}.one", "i8", width),
            f"  %{name} = call <{width} x i8> @llvm.{name}.v{width}i8("
            f"<{width} x i8> {codes}, <{width} x i8> %{limit}.all)",
        ]
        codes = f"%{name}"
    if count < width:
        places = ", ".join(f"i32 {lane}" for lane in range(count))
        shuffle = f"shufflevector <{width} x i8> {codes}, <{width} x i8> poison, <{count} x i32> <{places}>"
        lines.append(f"  %few = {shuffle}")
        codes = "%few"
    given = ", ".join([*(f"{_WIDE} {name}" for name in names), "i32 %zero", "i32 %low", "i32 %high"])
    body = "\n".join(lines)
    zero = "\n".join(["  %zero.one = trunc i32 %zero to i16", *_splat("%zeros", "%zero.one", "i16", 8)])
    return f"""
declare <4 x i32> @llvm.aarch64.neon.fcvtns.v4i32.v4f32(<4 x float>)
declare <4 x i16> @llvm.aarch64.neon.sqxtn.v4i16(<4 x i32>)
declare <8 x i8> @llvm.aarch64.neon.sqxtn.v8i8(<8 x i16>)
declare <8 x i16> @llvm.sadd.sat.v8i16(<8 x i16>, <8 x i16>)
declare <{width} x i8> @llvm.smax.v{width}i8(<{width} x i8>, <{width} x i8>)
declare <{width} x i8> @llvm.smin.v{width}i8(<{width} x i8>, <{width} x i8>)
define <{count} x i8> @{FUNCTION.format(vectors)}({given}) alwaysinline nounwind readnone {{
{zero}
{body}
  ret <{count} x i8> {codes}
}}
"""


def _rounded(name: str, number: int) -> str:
    """A vector of floats as whole numbers of 16 bits, the nearest that there are."""
    return f"""  %w{number} = call <4 x i32> @llvm.aarch64.neon.fcvtns.v4i32.v4f32({_WIDE} {name})
  %h{number} = call {_HALF} @llvm.aarch64.neon.sqxtn.v4i16(<4 x i32> %w{number})"""


def _joined(name: str, lanes: int, kind: str, left: str, right: str) -> str:
    places = ", ".join(f"i32 {lane}" for lane in range(2 * lanes))
    both = f"<{lanes} x {kind}> {left}, <{lanes} x {kind}> {right}"
    return f"  {name} = shufflevector {both}, <{2 * lanes} x i32> <{places}>"


def _splat(name: str, value: str, kind: str, lanes: int) -> list[str]:
    vector = f"<{lanes} x {kind}>"
    return [
        f"  {name}.in = insertelement {vector} poison, {kind} {value}, i64 0",
        f"  {name} = shufflevector {vector} {name}.in, {vector} poison, <{lanes} x i32> zeroinitializer",
    ]


FUNCTIONS = {FUNCTION.format(vectors): function(vectors) for vectors in GROUPS}


@dataclass(frozen=True)
class _Codes:
    """A store of four bytes, `value` rounded, with a zero point and between limits."""

    buffer: Buffer
    place: tvm.ir.Expr
    value: tvm.ir.Expr
    zero: int
    low: int
    high: int

    def alike(self, other: _Codes) -> bool:
        """Whether both are made in the same way and lie in the same tensor."""
        same = (self.zero, self.low, self.high) == (other.zero, other.low, other.high)
        return same and self.buffer.same_as(other.buffer)


def narrow_stores(func: PrimFunc) -> PrimFunc:
    """`func` with its stores of requantised bytes in groups.

    Requires: loops over lanes are vectors, short loops are unrolled, and tensors have one axis.
    """
    if not _for_arm(func):
        return func
    analyzer = tvm.sym.Analyzer()

    def together(sequence: SeqStmt) -> Stmt:
        made: list[Stmt] = []
        waiting: list[_Codes] = []
        for statement in sequence:
            codes = _codes(statement)
            if codes is None or (waiting and not codes.alike(waiting[0])):
                made += _grouped(waiting, analyzer)
                waiting = []
            if codes is None:
                made.append(statement)
            else:
                waiting.append(codes)
        return SeqStmt([*made, *_grouped(waiting, analyzer)])

    def alone(store: BufferStore) -> Stmt:
        codes = _codes(store)
        return store if codes is None else _store([codes])

    body = tvm_ffi.structural_map(func.body, (SeqStmt, together))
    return func.with_body(tvm_ffi.structural_map(body, (BufferStore, alone)))


def _for_arm(func: PrimFunc) -> bool:
    target = func.attrs.get("target") if func.attrs is not None else None
    return target is not None and str(target.attrs.get("mtriple", "")).startswith("aarch64")


def _grouped(codes: Sequence[_Codes], analyzer: tvm.sym.Analyzer) -> list[Stmt]:
    """Stores of neighbours, as many vectors at once as lie side by side; none writes what another one does."""
    if not codes:
        return []
    distances = [analyzer.simplify(one.place - codes[0].place) for one in codes]
    known = [
        (int(far), one) for far, one in zip(distances, codes, strict=True) if isinstance(far, tirx.IntImm)
    ]
    made = [
        _store([one]) for far, one in zip(distances, codes, strict=True) if not isinstance(far, tirx.IntImm)
    ]
    known.sort(key=lambda item: item[0])
    at = 0
    while at < len(known):
        size = next(n for n in GROUPS if _adjacent([far for far, _ in known[at : at + n]], n))
        made.append(_store([one for _, one in known[at : at + size]]))
        at += size
    return made


def _adjacent(places: Sequence[int], count: int) -> bool:
    return [place - places[0] for place in places] == [LANES * number for number in range(count)]


def _store(codes: Sequence[_Codes]) -> Stmt:
    first, lanes = codes[0], LANES * len(codes)
    numbers = [tirx.IntImm("int32", value) for value in (first.zero, first.low, first.high)]
    name = FUNCTION.format(len(codes))
    value = tirx.call_pure_extern(f"int8x{lanes}", name, *[one.value for one in codes], *numbers)
    return BufferStore(
        first.buffer, value, [tirx.Ramp(first.place, tirx.IntImm(_kind(first.place), 1), lanes)]
    )


def _kind(expr: tvm.ir.Expr) -> str:
    return str(expr.ty.dtype)


def _codes(statement: Stmt) -> _Codes | None:
    if not isinstance(statement, BufferStore) or len(statement.indices) != 1:
        return None
    place, cast = statement.indices[0], statement.value
    if (
        not isinstance(place, tirx.Ramp)
        or not isinstance(place.stride, tirx.IntImm)
        or int(place.stride) != 1
    ):
        return None
    if not isinstance(cast, tirx.Cast) or _kind(cast) != f"int8x{LANES}":
        return None
    rounded, zero = cast.value, 0
    if isinstance(rounded, tirx.Add):
        constant = _number(rounded.b)
        if constant is None:
            return None
        rounded, zero = rounded.a, int(constant)
    if not _rounds(rounded):
        return None
    value, limits = rounded.args[-1], dict[type, float]()
    while isinstance(value, tirx.Max | tirx.Min) and (limit := _number(value.b)) is not None:
        if type(value) in limits:
            return None
        limits[type(value)] = limit
        value = value.a
    if set(limits) != {tirx.Max, tirx.Min}:
        return None
    low, high = (int(limits[kind]) + zero for kind in (tirx.Max, tirx.Min))
    if not FEWEST <= low <= high <= MOST or not FEWEST <= zero <= MOST:
        return None
    return _Codes(statement.buffer, place.base, value, zero, low, high)


def _rounds(expr: tvm.ir.Expr) -> bool:
    """Whether it converts to the nearest whole number."""
    if not isinstance(expr, Call) or str(getattr(expr.op, "name", "")) != "tirx.call_llvm_pure_intrin":
        return False
    return _kind(expr) == f"int32x{LANES}" and int(expr.args[0]) == _lrint()


def _lrint() -> int:
    return int(tirx.call_llvm_pure_intrin("int32", "llvm.lrint", tirx.FloatImm("float32", 0.0)).args[0])


def _number(expr: tvm.ir.Expr) -> float | None:
    """A constant in all lanes."""
    value = expr.value if isinstance(expr, tirx.Broadcast) else expr
    return float(value.value) if isinstance(value, tirx.IntImm | tirx.FloatImm) else None


@tirx.transform.prim_func_pass(opt_level=0, name="edgec.NarrowStores")  # type: ignore[untyped-decorator]
def _narrow_stores(func: PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> PrimFunc:
    return narrow_stores(func)


def narrow_stores_pass() -> tvm.transform.Pass:
    """`narrow_stores` for every kernel of a module."""
    return _narrow_stores
