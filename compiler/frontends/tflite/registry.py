"""The table of TensorFlow Lite operators, and what their converters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from edgec.compiler.frontends.tflite.flat import Operator, Tensor
from edgec.compiler.frontends.tflite.folding import fold
from edgec.compiler.frontends.tflite.graph import Refused, Writer, grid, is_quantised
from edgec.compiler.frontends.tflite.unsupported import UNSUPPORTED

Convert: TypeAlias = Callable[[Writer, Operator], None]
Count: TypeAlias = int | tuple[int, int | None]  # how many: exactly, or at least and at most
CONVERTERS: dict[str, Convert] = {}

NONE, RELU, RELU_N1_TO_1, RELU6, TANH, SIGN_BIT = range(6)
SAME, VALID = 0, 1
_RANGES = {RELU: (0.0, np.inf), RELU_N1_TO_1: (-1.0, 1.0), RELU6: (0.0, 6.0)}
_INTEGERS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
INCONSISTENT = (IndexError, ValueError, KeyError, AttributeError, TypeError, ZeroDivisionError, OverflowError)


def converts(
    *kinds: str, inputs: Count = (0, None), outputs: Count = (1, None), given: int | None = None
) -> Callable[[Convert], Convert]:
    """Register a converter for operators.

    Args:
        inputs, outputs: how many the operators take and make.
        given: how many of the first inputs cannot be left out; by default the least number of inputs.
    """

    def register(function: Convert) -> Convert:
        def checked(g: Writer, op: Operator) -> None:
            _check_count(len(op.inputs), inputs, "input")
            _check_count(len(op.outputs), outputs, "output")
            least = inputs if isinstance(inputs, int) else inputs[0]
            least = least if given is None else given
            if min(op.inputs[:least], default=0) < 0 or min(op.outputs, default=0) < 0:
                raise Refused("a tensor that it needs is left out")
            function(g, op)

        for kind in kinds:
            CONVERTERS[kind] = checked
        return function

    return register


def _check_count(given: int, wanted: Count, what: str) -> None:
    low, high = (wanted, wanted) if isinstance(wanted, int) else wanted
    if given < low or (high is not None and given > high):
        span = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        raise Refused(f"it has {given} {what}s, and the operator {span}")


def convert_operators(g: Writer, within: str = "") -> list[tuple[Operator, str]]:
    """Convert the operators of a graph, in their order; returns those that cannot be, with the reasons.

    Args:
        within: the name of the operator that calls the graph.
    """
    refused: list[tuple[Operator, str]] = []
    lost: set[int] = set()
    for operator in g.graph.operators:
        g.begin(operator, within)
        first = len(g.nodes)
        try:
            if operator.kind not in CONVERTERS:
                raise Refused(UNSUPPORTED.get(operator.kind, "there is no converter for this operator"))
            CONVERTERS[operator.kind](g, operator)
            fold(g, operator, first)
        except Refused as refusal:
            known = operator.kind in CONVERTERS
            if not (known and lost.intersection(operator.inputs)):  # else the cause has been told
                refused.append((operator, str(refusal)))
            lost.update(operator.outputs)
        except INCONSISTENT as error:
            # an operator whose options or tensors do not belong to its kind: the file is inconsistent
            if not lost.intersection(operator.inputs):
                refused.append((operator, f"its parts do not fit together ({_told(operator, error)})"))
            lost.update(operator.outputs)
    return refused


def _told(operator: Operator, error: Exception) -> str:
    if isinstance(error, AttributeError):
        return f"its options are {type(operator.options).__name__.removesuffix('T')}"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def activated(g: Writer, name: str, activation: int, output: int) -> str:
    """The value after the activation that is fused into its operator.

    Raises:
        Refused: an activation without a converter.
    """
    if activation == NONE:
        return name
    if activation == TANH:
        return str(g.op("Tanh", name))
    if activation not in _RANGES:
        raise Refused(f"it has the fused activation number {activation}")
    low, high = _RANGES[activation]
    if is_quantised(g.tensor(output)):  # the grid's own limits may suffice
        first, last = grid_range(g.tensor(output))
        low = -np.inf if first >= low else low
        high = np.inf if last <= high else high
    dtype = g.tensor(output).dtype
    return clipped(g, name, low, high, "float32" if is_quantised(g.tensor(output)) else dtype)


def clipped(g: Writer, name: str, low: float, high: float, dtype: str = "float32") -> str:
    """The value clipped to limits, which may be infinite."""
    if low == -np.inf and high == np.inf:
        return name
    if low == 0 and high == np.inf and dtype == "float32":
        return str(g.op("Relu", name))
    ends = [None if np.isinf(limit) else np.array(limit, dtype) for limit in (low, high)]
    return str(g.op("Clip", name, *["" if end is None else end for end in ends]))


def grid_range(tensor: Tensor) -> tuple[float, float]:
    """The smallest and the largest number that a quantised tensor can represent."""
    quantisation = grid(tensor)
    first, last = _INTEGERS.get(tensor.dtype, (-np.inf, np.inf))
    scale, zero = float(quantisation.scale[0]), int(quantisation.zero_point[0])
    return (first - zero) * scale, (last - zero) * scale


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME: `ceil(size / stride)` positions; an odd pad goes to the end."""
    reach = (kernel - 1) * dilation + 1
    missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return missing // 2, missing - missing // 2
