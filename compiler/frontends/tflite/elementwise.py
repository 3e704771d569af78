"""Element-wise operators and comparisons."""

from __future__ import annotations

import numpy as np
from onnx import helper

from edgec.compiler.frontends.tflite.flat import Operator, Tensor
from edgec.compiler.frontends.tflite.graph import BYTES, Writer, halves_up, is_quantised, nchw_constant
from edgec.compiler.frontends.tflite.registry import activated, clipped, converts

BINARY = {
    "ADD": "Add",
    "SUB": "Sub",
    "MUL": "Mul",
    "DIV": "Div",
    "MAXIMUM": "Max",
    "MINIMUM": "Min",
    "POW": "Pow",
    "EQUAL": "Equal",
    "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual",
    "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual",
    "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or",
    "STABLEHLO_ADD": "Add",
    "STABLEHLO_MULTIPLY": "Mul",
    "STABLEHLO_MAXIMUM": "Max",
    "STABLEHLO_MINIMUM": "Min",
    "STABLEHLO_AND": "And",
}
UNARY = {
    "ABS": "Abs",
    "NEG": "Neg",
    "EXP": "Exp",
    "LOG": "Log",
    "SQRT": "Sqrt",
    "SIN": "Sin",
    "COS": "Cos",
    "TANH": "Tanh",
    "LOGISTIC": "Sigmoid",
    "FLOOR": "Floor",
    "CEIL": "Ceil",
    "ROUND": "Round",
    "SIGN": "Sign",
    "RELU": "Relu",
    "ELU": "Elu",
    "LOGICAL_NOT": "Not",
}
LIMITS = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}
UNSIGNED = {"int8": "uint8", "int16": "uint16", "int32": "uint32", "int64": "uint64"}


def operands(g: Writer, op: Operator, count: int) -> tuple[list[str], bool]:
    """The operands of an element-wise operator, all in one order of axes; whether that is NCHW."""
    indices = op.inputs[:count]
    ranks = [g.rank(i) for i in indices]
    floating = all(g.tensor(i).dtype == "float32" or is_quantised(g.tensor(i)) for i in indices)
    pictures = [i for i in indices if i in g.nchw and not g.is_constant(i)]
    others = all(g.is_constant(i) or rank == 4 for i, rank in zip(indices, ranks, strict=True))
    if floating and pictures and others:
        names = []
        for i in indices:
            constant = g.is_constant(i)
            names.append(g.constant(nchw_constant(g.real(i))) if constant else g.get_nchw(i))
        return names, True
    return [g.get(i) for i in indices], False


@converts(*BINARY, inputs=2, outputs=1)
def _binary(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    kind = BINARY[op.kind]
    if op.kind in ("ADD", "SUB"):
        names = _halves_up(g, op, names, nchw=nchw)
    if kind == "And" and g.tensor(op.inputs[0]).dtype != "bool":
        kind = "BitwiseAnd"
    y = g.op(kind, *names)
    y = activated(g, y, getattr(op.options, "fusedActivationFunction", 0), op.outputs[0])
    g.put(op.outputs[0], y, nchw=nchw)


def _halves_up(g: Writer, op: Operator, names: list[str], *, nchw: bool) -> list[str]:
    """The operands of a sum on 8-bit grids with a constant moved up by a little of a step of the result.

    XNNPACK rounds halves up there. Where pixels are normalised (`x / 127.5 - 1`), every other value is in the middle
    between two integers.
    """
    result, constants = g.tensor(op.outputs[0]), [g.is_constant(i) for i in op.inputs[:2]]
    if sum(constants) != 1 or result.dtype not in BYTES or not is_quantised(result):
        return names
    at = constants.index(True)
    little = halves_up(result) * (-1 if op.kind == "SUB" and at == 1 else 1)
    moved = (g.real(op.inputs[at]).astype(np.float64) + little).astype(np.float32)
    return [g.constant(nchw_constant(moved) if nchw else moved) if i == at else names[i] for i in range(2)]


@converts("NOT_EQUAL", inputs=2, outputs=1)
def _not_equal(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    g.put(op.outputs[0], g.op("Not", g.op("Equal", *names)), nchw=nchw)


@converts("SQUARED_DIFFERENCE", inputs=2, outputs=1)
def _squared_difference(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    difference = g.op("Sub", *names)
    g.put(op.outputs[0], g.op("Mul", difference, difference), nchw=nchw)


@converts("FLOOR_DIV", inputs=2, outputs=1)
def _floor_div(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    if is_real(g.tensor(op.inputs[0])):
        g.put(op.outputs[0], g.op("Floor", g.op("Div", *names)), nchw=nchw)
        return
    # ONNX truncates: subtract the remainder first, which has the divisor's sign
    rest = g.op("Mod", *names)
    g.put(op.outputs[0], g.op("Div", g.op("Sub", names[0], rest), names[1]), nchw=nchw)


@converts("FLOOR_MOD", inputs=2, outputs=1)
def _floor_mod(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    if not is_real(g.tensor(op.inputs[0])):
        g.put(op.outputs[0], g.op("Mod", *names), nchw=nchw)
        return
    rest = g.op("Mod", *names, fmod=1)  # with the sign of the dividend
    zero = np.array(0, np.float32)
    apart = g.op("Xor", g.op("Less", rest, zero), g.op("Less", names[1], zero))
    wrong = g.op("And", apart, g.op("Not", g.op("Equal", rest, zero)))
    g.put(op.outputs[0], g.op("Where", wrong, g.op("Add", rest, names[1]), rest), nchw=nchw)


@converts("ATAN2", inputs=2, outputs=1)
def _atan2(g: Writer, op: Operator) -> None:
    """The angle from the quotient, in the quadrant of the signs; the sign of a zero counts."""
    (y, x), nchw = operands(g, op, 2)
    zero, pi = np.array(0, np.float32), np.array(np.pi, np.float32)
    y_down, left = (_is_negative(g, value) for value in (y, x))
    flat = g.op("Equal", g.op("Abs", x), g.op("Abs", y))  # infinities and zeros have no quotient
    ratio = g.op("Where", flat, np.array(1, np.float32), g.op("Abs", g.op("Div", y, x)))
    both_zero = g.op("And", flat, g.op("Equal", y, zero))
    angle = g.op("Where", both_zero, zero, g.op("Atan", ratio))
    angle = g.op("Where", left, g.op("Sub", pi, angle), angle)
    angle = g.op("Where", y_down, g.op("Neg", angle), angle)
    unknown = g.op("Or", g.op("IsNaN", x), g.op("IsNaN", y))
    g.put(op.outputs[0], g.op("Where", unknown, g.op("Add", x, y), angle), nchw=nchw)


def _is_negative(g: Writer, x: str) -> str:
    """Whether the sign is minus, that of a negative zero included."""
    zero = np.array(0, np.float32)
    below = g.op("Less", x, zero)
    return str(g.op("Or", below, g.op("Less", g.op("Reciprocal", x), zero)))


@converts("BITWISE_XOR", inputs=2, outputs=1)
def _bitwise_xor(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    kind = "Xor" if g.tensor(op.inputs[0]).dtype == "bool" else "BitwiseXor"
    g.put(op.outputs[0], g.op(kind, *names), nchw=nchw)


@converts("RIGHT_SHIFT", "STABLEHLO_SHIFT_LEFT", inputs=2, outputs=1)
def _shift(g: Writer, op: Operator) -> None:
    """Shifts of signed numbers: to the right the sign comes in, by more bits than there are as by all of them."""
    (x, by), nchw = operands(g, op, 2)
    dtype = g.tensor(op.inputs[0]).dtype
    left = op.kind == "STABLEHLO_SHIFT_LEFT"
    bits = np.dtype(dtype).itemsize * 8
    unsigned = np.dtype(UNSIGNED.get(dtype, dtype))
    to, back = (helper.np_dtype_to_tensor_dtype(d) for d in (unsigned, np.dtype(dtype)))
    if not left:
        by = g.op("Clip", by, np.array(0, dtype), np.array(bits - 1, dtype))
    amount = g.op("Cast", by, to=to)
    if left:
        y = g.op("Cast", g.op("BitShift", g.op("Cast", x, to=to), amount, direction="LEFT"), to=back)
    else:
        negative = g.op("Less", x, np.array(0, dtype))
        flipped = g.op("Where", negative, g.op("BitwiseNot", x), x)
        y = g.op("Cast", g.op("BitShift", g.op("Cast", flipped, to=to), amount, direction="RIGHT"), to=back)
        y = g.op("Where", negative, g.op("BitwiseNot", y), y)
    g.put(op.outputs[0], y, nchw=nchw)


@converts("ADD_N", inputs=(1, None), outputs=1)
def _add_n(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, len(op.inputs))
    total = names[0]
    for name in names[1:]:
        total = g.op("Add", total, name)
    g.put(op.outputs[0], total, nchw=nchw)


@converts(*UNARY, inputs=1, outputs=1)
def _unary(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op(UNARY[op.kind], x), nchw=nchw)


@converts(*LIMITS, inputs=1, outputs=1)
def _limited(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], clipped(g, x, *LIMITS[op.kind]), nchw=nchw)


@converts("RSQRT", inputs=1, outputs=1)
def _rsqrt(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op("Reciprocal", g.op("Sqrt", x)), nchw=nchw)


@converts("SQUARE", inputs=1, outputs=1)
def _square(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op("Mul", x, x), nchw=nchw)


@converts("GELU", inputs=1, outputs=1)
def _gelu(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    half = g.op("Mul", x, np.array(0.5, np.float32))
    if op.options.approximate:
        cube = g.op("Mul", g.op("Mul", x, x), g.op("Mul", x, np.array(0.044715, np.float32)))
        inner = g.op("Mul", g.op("Add", x, cube), np.array(np.sqrt(2 / np.pi), np.float32))
        gate = g.op("Tanh", inner)
    else:
        gate = g.op("Erf", g.op("Mul", x, np.array(np.sqrt(0.5), np.float32)))
    g.put(op.outputs[0], g.op("Mul", half, g.op("Add", gate, np.array(1, np.float32))), nchw=nchw)


@converts("LEAKY_RELU", inputs=1, outputs=1)
def _leaky_relu(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op("LeakyRelu", x, alpha=float(op.options.alpha)), nchw=nchw)


@converts("PRELU", inputs=2, outputs=1)
def _prelu(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    g.put(op.outputs[0], g.op("PRelu", *names), nchw=nchw)


@converts("HARD_SWISH", inputs=1, outputs=1)
def _hard_swish(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op("HardSwish", x), nchw=nchw)


@converts("SELECT", "SELECT_V2", inputs=3, outputs=1)
def _select(g: Writer, op: Operator) -> None:
    condition, yes, no = (g.get(i) for i in op.inputs)
    rank = g.rank(op.inputs[1])
    if op.kind == "SELECT" and g.rank(op.inputs[0]) == 1 and rank > 1:  # a value a row
        condition = g.op("Reshape", condition, np.array([-1] + [1] * (rank - 1), np.int64))
    g.put(op.outputs[0], g.op("Where", condition, yes, no))


@converts("ZEROS_LIKE", inputs=1, outputs=1)
def _zeros_like(g: Writer, op: Operator) -> None:
    x = g.get(op.inputs[0])
    zero = np.zeros((), real_dtype(g.tensor(op.inputs[0])))
    g.put(op.outputs[0], g.op("Expand", zero, g.op("Shape", x)))


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor holds real numbers, quantised or not."""
    return is_quantised(tensor) or tensor.dtype.startswith("float")


def real_dtype(tensor: Tensor) -> str:
    """The type in which a tensor's values are computed."""
    return "float32" if is_quantised(tensor) or tensor.dtype == "float16" else tensor.dtype
