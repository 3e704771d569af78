"""Element-wise operators, comparisons, casts, quantisation and dequantisation."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from edgec.compiler.frontends.tflite.flat import Operator
from edgec.compiler.frontends.tflite.graph import Refused, Writer, is_quantised, nchw_constant
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
    "HARD_SWISH": "HardSwish",
    "LOGICAL_NOT": "Not",
}
LIMITS = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}


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


@converts(*BINARY)
def _binary(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    if (
        op.kind == "DIV"
        and g.tensor(op.inputs[0]).dtype.startswith("int")
        and not is_quantised(g.tensor(op.inputs[0]))
    ):
        raise Refused("it divides integers")
    y = g.op(BINARY[op.kind], *names)
    y = activated(g, y, getattr(op.options, "fusedActivationFunction", 0), op.outputs[0])
    g.put(op.outputs[0], y, nchw=nchw)


@converts("NOT_EQUAL")
def _not_equal(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    g.put(op.outputs[0], g.op("Not", g.op("Equal", *names)), nchw=nchw)


@converts("SQUARED_DIFFERENCE")
def _squared_difference(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    difference = g.op("Sub", *names)
    g.put(op.outputs[0], g.op("Mul", difference, difference), nchw=nchw)


@converts("FLOOR_DIV")
def _floor_div(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    dtype = g.tensor(op.outputs[0]).dtype
    if dtype == "float32":
        g.put(op.outputs[0], g.op("Floor", g.op("Div", *names)), nchw=nchw)
        return
    # ONNX truncates: subtract the remainder first, which has the divisor's sign
    rest = g.op("Mod", *names)
    g.put(op.outputs[0], g.op("Div", g.op("Sub", names[0], rest), names[1]), nchw=nchw)


@converts("FLOOR_MOD")
def _floor_mod(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    if g.tensor(op.outputs[0]).dtype == "float32":
        quotient = g.op("Floor", g.op("Div", *names))
        g.put(op.outputs[0], g.op("Sub", names[0], g.op("Mul", quotient, names[1])), nchw=nchw)
    else:
        g.put(op.outputs[0], g.op("Mod", *names), nchw=nchw)


@converts("ADD_N")
def _add_n(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, len(op.inputs))
    g.put(op.outputs[0], g.op("Sum", *names), nchw=nchw)


@converts(*UNARY)
def _unary(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op(UNARY[op.kind], x), nchw=nchw)


@converts(*LIMITS)
def _limited(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], clipped(g, x, *LIMITS[op.kind]), nchw=nchw)


@converts("RSQRT")
def _rsqrt(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op("Reciprocal", g.op("Sqrt", x)), nchw=nchw)


@converts("SQUARE")
def _square(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op("Mul", x, x), nchw=nchw)


@converts("GELU")
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


@converts("LEAKY_RELU")
def _leaky_relu(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], g.op("LeakyRelu", x, alpha=float(op.options.alpha)), nchw=nchw)


@converts("PRELU")
def _prelu(g: Writer, op: Operator) -> None:
    names, nchw = operands(g, op, 2)
    g.put(op.outputs[0], g.op("PRelu", *names), nchw=nchw)


@converts("SELECT", "SELECT_V2")
def _select(g: Writer, op: Operator) -> None:
    g.put(op.outputs[0], g.op("Where", *[g.get(i) for i in op.inputs[:3]]))


@converts("CAST")
def _cast(g: Writer, op: Operator) -> None:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(g.tensor(op.outputs[0]).dtype))
    g.put(op.outputs[0], g.op("Cast", g.integers(op.inputs[0]), to=to), exact=True)


@converts("QUANTIZE")
def _quantize(g: Writer, op: Operator) -> None:
    (x,), nchw = operands(g, op, 1)
    g.put(op.outputs[0], x, nchw=nchw)


@converts("DEQUANTIZE")
def _dequantize(g: Writer, op: Operator) -> None:
    source = g.tensor(op.inputs[0])
    if source.data is not None:  # weights stored as float16 or int8
        g.put_constant(op.outputs[0], g.real(op.inputs[0]))
        return
    (x,), nchw = operands(g, op, 1)
    if source.dtype == "float16":
        x = g.op("Cast", x, to=TensorProto.FLOAT)
    g.put(op.outputs[0], x, nchw=nchw)
