"""The definition of products with constant weights of a few bits, in blocks along the reduced axis with a scale each.

The weights stay as they are stored; a template of a back end widens them in registers, and without one the definition
is scheduled as it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.graph.anchors import ANCHOR, encode

LANES = 16  # columns of a block of weights, on every target: a vector, or two or four
_WORD = 32  # bits


@dataclass(frozen=True)
class NarrowSpec:
    """`y[rows, cols] = x[rows, inner] · w[inner, cols]`, of which element `w = (code - zero) * scale`.

    Attributes:
        bits: of a code, which is signed: 4 or 8.
        size: elements of the reduced axis that share a scale.
        zeros: whether blocks have a zero point each; it is 0 otherwise.
    """

    rows: int
    inner: int
    cols: int
    bits: int
    size: int
    zeros: bool
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """Floating point operations, a multiply-add counted as two."""
        return 2 * self.rows * self.inner * self.cols

    @property
    def word(self) -> int:
        """Codes of a 32-bit word: neighbours along the reduced axis, the first one lowest."""
        return _WORD // self.bits

    @property
    def column_blocks(self) -> int:
        """Blocks of `LANES` columns; what the last one has beyond `cols` is 0."""
        return -(-self.cols // LANES)


@dataclass(frozen=True)
class RoundedSpec(NarrowSpec):
    """The same product of activations that are integers, with a scale for each row and block: `x = code * scale`.

    Beside weights of 4 bits, the even ones of eight codes stand before the odd ones.
    """


def _weights(spec: NarrowSpec) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Codes, zero points and scales."""
    words = (spec.column_blocks, spec.inner // spec.word, LANES)
    blocks = (spec.column_blocks, spec.inner // spec.size, LANES)
    return (
        te.placeholder(words, "int32", "codes"),
        te.placeholder(blocks, spec.dtype, "zeros"),
        te.placeholder(blocks, spec.dtype, "scales"),
    )


def _code(spec: NarrowSpec, codes: te.Tensor, block: tirx.Expr, k: tirx.Expr, lane: tirx.Expr) -> tirx.Expr:
    """The bits of a code, without its sign."""
    below = tirx.Cast("int32", k % spec.word * spec.bits)
    return (codes[block, k // spec.word, lane] >> below) & tirx.IntImm("int32", (1 << spec.bits) - 1)


def narrow_product(spec: NarrowSpec) -> PrimFunc:
    """The product; parameters `x`, codes `[column blocks, inner / word, LANES]` int32, zero points (if there are any)
    and scales `[column blocks, inner / size, LANES]`, result."""
    x = te.placeholder((spec.rows, spec.inner), spec.dtype, "x")
    codes, zeros, scales = _weights(spec)
    k = te.reduce_axis((0, spec.inner), "k")
    half = 1 << (spec.bits - 1)

    def body(row: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
        at, lane = column // LANES, column % LANES
        code = _code(spec, codes, at, k, lane)
        real = ((code ^ tirx.IntImm("int32", half)) - tirx.IntImm("int32", half)).astype(spec.dtype)
        if spec.zeros:
            real = real - zeros[at, k // spec.size, lane]
        return te.sum(x[row, k] * real * scales[at, k // spec.size, lane], axis=k)

    anchor = encode("narrow", asdict(spec))
    out = te.compute((spec.rows, spec.cols), body, name="narrow", attrs={ANCHOR: anchor})
    given = [x, codes, zeros, scales] if spec.zeros else [x, codes, scales]
    made: PrimFunc = te.create_prim_func([*given, out], index_dtype_override="int64")
    return made.without_attr("global_symbol").with_attr(ANCHOR, anchor)


def rounded_product(spec: RoundedSpec) -> PrimFunc:
    """The product of rounded activations; parameters codes `[rows, inner]` int8, scales `[rows, inner / size]`, a
    block's sum of codes times its scale `[rows, inner / size]`, then those of `narrow_product` after `x`."""
    x = te.placeholder((spec.rows, spec.inner), "int8", "x")
    factors, sums = (
        te.placeholder((spec.rows, spec.inner // spec.size), spec.dtype, n) for n in ("factors", "sums")
    )
    codes, zeros, scales = _weights(spec)
    k = te.reduce_axis((0, spec.inner), "k")
    half = 1 << (spec.bits - 1)

    def body(row: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
        at, lane, group = column // LANES, column % LANES, k // spec.size
        place = k if spec.bits == _WORD // 4 else k // 8 * 8 + k % 2 * 4 + k % 8 // 2
        code = _code(spec, codes, at, k, lane)
        product = x[row, place].astype("int32") * (code ^ tirx.IntImm("int32", half))
        middle = tirx.FloatImm(spec.dtype, float(half))
        real = product.astype(spec.dtype) * factors[row, group]
        zero = (zeros[at, group, lane] + middle) if spec.zeros else middle
        nothing = tirx.FloatImm(spec.dtype, 0.0)
        return te.sum(
            (real - tirx.Select(k % spec.size == 0, zero * sums[row, group], nothing))
            * scales[at, group, lane],
            axis=k,
        )

    anchor = encode("narrow-rounded", asdict(spec))
    out = te.compute((spec.rows, spec.cols), body, name="narrow", attrs={ANCHOR: anchor})
    given = [x, factors, sums, codes, zeros, scales] if spec.zeros else [x, factors, sums, codes, scales]
    made: PrimFunc = te.create_prim_func([*given, out], index_dtype_override="int64")
    return made.without_attr("global_symbol").with_attr(ANCHOR, anchor)


def packed(codes: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.int32]:
    """Signed codes `[cols, inner]` as `narrow_product` reads them."""
    columns, inner = codes.shape
    word = _WORD // bits
    wide = np.zeros((-(-columns // LANES) * LANES, inner), np.uint32)
    wide[:columns] = codes.astype(np.int64) & ((1 << bits) - 1)
    fields = wide.reshape(-1, LANES, inner // word, word) << np.arange(0, _WORD, bits, dtype=np.uint32)
    return np.ascontiguousarray(np.bitwise_or.reduce(fields, axis=-1).transpose(0, 2, 1)).view(np.int32)


def by_block(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scales or zero points `[cols, blocks]` as `narrow_product` reads them."""
    columns, blocks = values.shape
    wide = np.zeros((-(-columns // LANES) * LANES, blocks), np.float32)
    wide[:columns] = values
    return np.ascontiguousarray(wide.reshape(-1, LANES, blocks).transpose(0, 2, 1))
