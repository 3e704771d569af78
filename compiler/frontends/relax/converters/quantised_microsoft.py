"""Quantised operators of com.microsoft that ONNX Runtime's quantiser writes, beside those of `integer`."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
from tvm import relax

from edgec.compiler.frontends.relax.builder import Array, Expr, constant
from edgec.compiler.frontends.relax.converters.convolution import spatial_pads
from edgec.compiler.frontends.relax.converters.integer import (
    dequantised,
    integer_product,
    on_grid,
    quantised,
    to_bytes,
)
from edgec.compiler.frontends.relax.converters.registry import (
    MICROSOFT,
    CannotConvert,
    Node,
    axis_of,
    converts,
    is_constant,
    rank_of,
    reshaped,
    shape_of,
    value_of,
)
from edgec.compiler.graph.narrow_products import (
    NarrowSpec,
    RoundedSpec,
    by_block,
    narrow_product,
    packed,
    rounded_product,
)

POOLS = {3: relax.op.nn.avg_pool1d, 4: relax.op.nn.avg_pool2d, 5: relax.op.nn.avg_pool3d}
_CACHED = 1 << 16  # weights from which it pays to read them as they are stored: 256 KB of real numbers
_ROUNDED = 4  # the accuracy level that allows activations to be rounded to 8 bits
_LARGEST, _SMALLEST = 127.0, 1e-30
LAYOUTS = {3: "NCW", 4: "NCHW", 5: "NCDHW"}


def _result(node: Node, y: Expr, scale: int) -> Expr:
    """A real result on the grid that inputs `scale` and the one after it give."""
    zero = node.input(scale + 1) if node.has(scale + 1) else None
    return quantised(node, node.emit(y), node.input(scale), zero, node.dtype(0))


@converts("QLinearAveragePool", domain=MICROSOFT)
def _average_pool(node: Node) -> Expr:
    rank = node.rank(0)
    if node.attrs.get("channels_last", 0) or rank not in POOLS:
        raise CannotConvert("its layout is not compiled")
    kernel = [int(k) for k in node.attrs["kernel_shape"]]
    ones = [1] * len(kernel)
    strides = [int(s) for s in node.attrs.get("strides") or ones]
    pads = spatial_pads(node, node.shape(0)[2:], kernel, strides, ones)
    y = POOLS[rank](
        dequantised(node, 0, 1, 2),
        pool_size=kernel,
        strides=strides,
        padding=pads,
        ceil_mode=bool(node.attrs.get("ceil_mode", 0)),
        count_include_pad=bool(node.attrs.get("count_include_pad", 0)),
        layout=LAYOUTS[rank],
    )
    return _result(node, y, 3)


@converts("QLinearSoftmax", domain=MICROSOFT)
def _softmax(node: Node) -> Expr:
    x, shape = dequantised(node, 0, 1, 2), node.shape(0)
    axis = axis_of(int(node.attrs.get("axis", -1)), len(shape))
    if int(node.attrs.get("opset", 13)) >= 13:
        return _result(node, relax.op.nn.softmax(x, axis), 3)
    rows = int(np.prod(shape[:axis]))
    flat = node.emit(reshaped(x, [rows, -1 if rows == 0 else int(np.prod(shape)) // rows]))
    return _result(node, reshaped(node.emit(relax.op.nn.softmax(flat, 1)), shape), 3)


@converts("QLinearReduceMean", domain=MICROSOFT)
def _reduce_mean(node: Node) -> Expr:
    x, rank = dequantised(node, 0, 1, 2), node.rank(0)
    axes = [axis_of(int(a), rank) for a in node.attrs.get("axes") or range(rank)]
    return _result(node, relax.op.mean(x, axes, keepdims=bool(node.attrs.get("keepdims", 1))), 3)


@converts("QLinearWhere", domain=MICROSOFT)
def _where(node: Node) -> Expr:
    """Both sides on the grid of the result, of which one is chosen."""
    zero = node.input(8) if node.has(8) else None
    sides = [
        quantised(node, dequantised(node, x, x + 1, x + 2), node.input(7), zero, node.dtype(x))
        for x in (1, 4)
    ]
    return relax.op.where(node.input(0), *sides)


@converts("QGemm", domain=MICROSOFT)
def _gemm(node: Node) -> Expr:
    """`alpha * A * B + C`, of which C is int32 in units of both scales; real numbers without a scale of the result."""
    columns = 0 if node.attrs.get("transB", 0) else 1
    a, b = dequantised(node, 0, 1, 2), dequantised(node, 3, 4, 5, axis=columns)
    if node.attrs.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a, [1, 0]))
    if node.attrs.get("transB", 0):
        b = node.emit(relax.op.permute_dims(b, [1, 0]))
    y = node.emit(relax.op.matmul(a, b))
    if node.has(6):
        if not (is_constant(node.input(1)) and is_constant(node.input(4))):
            raise CannotConvert("its scales are only known at run time")
        scale = value_of(node.input(1)).reshape(-1) * value_of(node.input(4)).reshape(-1)
        c = on_grid(node, node.input(6), scale if scale.size > 1 else scale[0], None, node.rank(6) - 1)
        y = node.emit(relax.op.add(y, c))
    alpha = float(node.attrs.get("alpha", 1.0))
    if alpha != 1.0:
        y = node.emit(relax.op.multiply(y, constant(alpha, "float32")))
    return _result(node, y, 7) if node.has(7) else y


def _scaled(node: Node, sums: Expr, scale: Expr, bias: int) -> Expr:
    """Integer sums as real numbers: times a scale, plus a bias if there is one."""
    real = node.emit(relax.op.multiply(node.emit(relax.op.astype(sums, "float32")), scale))
    return relax.op.add(real, node.input(bias)) if node.has(bias) else real


@converts("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_to_float(node: Node) -> Expr:
    scale = node.emit(relax.op.multiply(_flat(node, 2), _flat(node, 3)))
    return _scaled(node, node.emit(integer_product(node, (0, 1), (4, 5))), scale, 6)


@converts("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_matmul(node: Node) -> Expr:
    codes, scale, zero = (node.emit(one) for one in to_bytes(node, node.input(0)))
    inputs = [codes, node.input(1), zero, node.input(3) if node.has(3) else None]
    product = Node(
        "MatMulInteger", "", node.opset, node.builder, inputs, {}, node.outputs, node.scope, node.usual
    )
    sums = node.emit(integer_product(product, (0, 1), (2, 3)))
    return _scaled(node, sums, node.emit(relax.op.multiply(scale, _flat(node, 2))), 4)


def _flat(node: Node, position: int) -> Expr:
    """A scale: one number, or one per column."""
    size = int(np.prod(node.shape(position)))
    return node.emit(reshaped(node.input(position), [size] if size > 1 else []))


@converts("MatMulNBits", domain=MICROSOFT)
def _matmul_n_bits(node: Node) -> Expr:
    """A product with weights of a few bits, in blocks along the reduced axis with a scale each."""
    if node.has(4):
        raise CannotConvert("its blocks are in another order (g_idx)")
    stored, scales, zeros = node.array(1), node.array(2), node.array(3)
    if stored is None or scales is None:
        raise CannotConvert("it has no weights")
    inner, columns = int(node.attrs["K"]), int(node.attrs["N"])
    bits, size = int(node.attrs.get("bits", 4)), int(node.attrs["block_size"])
    blocks = -(-inner // size)
    codes = _unpacked(stored.reshape(columns * blocks, -1), bits).reshape(columns, blocks, size)
    points: Array = np.full((columns, blocks), 1 << (bits - 1), np.float64)
    if zeros is not None and zeros.dtype == np.uint8:
        points = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks].astype(np.float64)
    elif zeros is not None:
        points = zeros.reshape(columns, blocks).astype(np.float64)
    spec = _narrow_spec(node, inner, columns, bits, size)
    if spec is not None:
        y = _narrow_product(node, spec, codes, points, scales.reshape(columns, blocks))
        return node.emit(relax.op.add(y, node.input(5))) if node.has(5) else y
    factors = scales.reshape(columns, blocks, 1).astype(np.float64)
    real = ((codes - points[..., None]) * factors).reshape(columns, -1)[:, :inner]
    dtype = node.dtype(0)
    x = _rounded_values(node, node.input(0), size) if _rounds(node, bits) else node.input(0)
    y = node.emit(relax.op.matmul(x, constant(real.T.astype(dtype))))
    if node.has(5) and rank_of(y) and shape_of(node.input(5)):
        y = node.emit(relax.op.add(y, node.input(5)))
    return y


def _narrow_spec(node: Node, inner: int, columns: int, bits: int, size: int) -> NarrowSpec | None:
    """The product with weights that stay as narrow as they are; None where dequantised ones serve better."""
    if node.dtype(0) != "float32" or bits not in (4, 8) or inner % size or size * bits % 32:
        return None
    try:
        rows = int(np.prod(node.shape(0)[:-1], dtype=np.int64))
    except CannotConvert:
        return None  # as many rows as the run brings
    return NarrowSpec(rows, inner, columns, bits, size, True) if inner * columns >= _CACHED and rows else None


def _narrow_product(node: Node, spec: NarrowSpec, codes: Array, points: Array, scales: Array) -> Expr:
    middle = 1 << (spec.bits - 1)
    zeros = (points - middle).astype(np.float32)
    spec = replace(spec, zeros=bool(zeros.any()))
    shape = shape_of(node.input(0))
    x = node.emit(reshaped(node.input(0), [spec.rows, spec.inner]))
    words = packed(
        (codes.astype(np.int16) - middle).astype(np.int8).reshape(spec.cols, spec.inner), spec.bits
    )
    stored = [by_block(one) for one in ((zeros,) if spec.zeros else ())] + [
        by_block(scales.astype(np.float32))
    ]
    if _rounds(node, spec.bits):
        given = [*_rounded(node, x, spec), constant(words), *map(constant, stored)]
        function = node.builder.add_func(rounded_product(RoundedSpec(*astuple(spec))), "rounded_product")
    else:
        given = [x, constant(words), *map(constant, stored)]
        function = node.builder.add_func(narrow_product(spec), "narrow_product")
    y = node.emit(relax.call_tir(function, given, relax.TensorType((spec.rows, spec.cols), "float32")))
    return node.emit(reshaped(y, [*shape[:-1], spec.cols]))


def _rounds(node: Node, bits: int) -> bool:
    """Whether activations are rounded to 8 bits, as ONNX Runtime does where a model allows it."""
    return node.attrs.get("accuracy_level", 0) == _ROUNDED and bits in (4, 8) and node.dtype(0) == "float32"


def _codes(node: Node, blocks: Expr) -> tuple[Expr, Expr]:
    """Whole numbers from -127 to 127 and a scale, in float32, for each row of a last axis."""

    def number(value: float) -> Expr:
        return constant(np.array(value, np.float32))

    most = node.emit(relax.op.max(node.emit(relax.op.abs(blocks)), axis=-1, keepdims=True))
    scale = node.emit(relax.op.divide(most, number(_LARGEST)))
    some = node.emit(relax.op.maximum(most, number(_SMALLEST)))
    inverse = node.emit(relax.op.divide(number(_LARGEST), some))
    return node.emit(relax.op.round(node.emit(relax.op.multiply(blocks, inverse)))), scale


def _rounded(node: Node, x: Expr, spec: NarrowSpec) -> list[Expr]:
    """Rows in blocks of 8-bit integers: codes, scales, and each block's sum of codes times its scale."""
    groups = spec.inner // spec.size

    def flat(value: Expr, columns: int) -> Expr:
        return node.emit(reshaped(value, [spec.rows, columns]))

    codes, scale = _codes(node, node.emit(reshaped(x, [spec.rows, groups, spec.size])))
    sums = node.emit(relax.op.sum(codes, axis=2, keepdims=True))
    weighted = node.emit(relax.op.multiply(sums, scale))
    stored = node.emit(relax.op.astype(codes, "int8"))
    if spec.bits == 4:  # even elements of eight before odd ones, as a word's codes are split
        eights = node.emit(reshaped(stored, [spec.rows, spec.inner // 8, 4, 2]))
        stored = node.emit(relax.op.permute_dims(eights, [0, 1, 3, 2]))
    return [flat(stored, spec.inner), flat(scale, groups), flat(weighted, groups)]


def _rounded_values(node: Node, x: Expr, size: int) -> Expr:
    """Real numbers, rounded in blocks of `size` along the last axis."""
    shape = x.ty.shape
    if not isinstance(shape, relax.ShapeExpr):
        raise CannotConvert("the shape of its input depends on the data")
    *outer, inner = shape.values
    missing = -int(inner) % size
    if missing:
        x = node.emit(relax.op.nn.pad(x, [0, 0] * len(outer) + [0, missing]))
    whole = int(inner) + missing
    codes, scale = _codes(
        node, node.emit(relax.op.reshape(x, relax.ShapeExpr([*outer, whole // size, size])))
    )
    real = node.emit(relax.op.multiply(codes, scale))
    flat = node.emit(relax.op.reshape(real, relax.ShapeExpr([*outer, whole])))
    return node.emit(relax.op.strided_slice(flat, [len(outer)], [0], [int(inner)])) if missing else flat


def _unpacked(rows: Array, bits: int) -> Array:
    """The numbers of some bits in rows of bytes, the first one lowest."""
    if bits not in (2, 4, 8):
        raise CannotConvert(f"weights of {bits} bits are not compiled")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (rows.astype(np.uint8)[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(values.reshape(*rows.shape[:-1], -1))
