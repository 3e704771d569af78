"""Whether equal outputs show anything: not if the model gives the same whatever it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.verify.compare import EXACT_KINDS, OutputError
from edgec.compiler.verify.inputs import Arrays

CONSTANT = "has the same values on every input that was tried"
SATURATED = "is saturated on every input that was tried"
# Functions that end in limits, which a large operand reaches whatever its error.
LIMITED = frozenset({"Clip", "HardSigmoid", "Sigmoid", "Softmax", "Tanh"})
MOVERS = frozenset(
    {"Cast", "Concat", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Flatten", "Slice"}
)
NEAR = 1e-6


def marked(
    errors: Sequence[OutputError], runs: Sequence[Arrays], model: ModelProto
) -> tuple[OutputError, ...]:
    """The errors with what makes their equality hollow.

    Args:
        errors: one per output.
        runs: the outputs of the reference for different inputs that were compared.
        model: the model.
    """
    if len(runs) < 2:
        return tuple(errors)
    depending, limited = _depending(model), _limited(model)
    reasons: dict[str, str] = {}
    for error in errors:
        values = [run[error.name] for run in runs]
        if error.name in depending and not error.undefined:
            if all(np.array_equal(values[0], v, equal_nan=v.dtype.kind == "f") for v in values[1:]):
                reasons[error.name] = CONSTANT
            elif error.name in limited and all(is_saturated(v) for v in values):
                reasons[error.name] = SATURATED
    # a class or a count often is the same for all that can be made up: what leads to it is compared elsewhere
    shown = any(e.name not in reasons and e.dtype not in ("bool",) and e.name in depending for e in errors)
    discrete = {e.name for e in errors if np.dtype(e.dtype).kind in EXACT_KINDS} if shown else set[str]()
    return tuple(
        replace(error, hollow=reasons[error.name])
        if error.name in reasons and error.name not in discrete
        else error
        for error in errors
    )


def is_saturated(values: npt.NDArray[Any]) -> bool:
    """Whether all values are at a limit: 0, 1 or -1."""
    if values.dtype.kind != "f" or not values.size:
        return False
    found = np.abs(values.astype(np.float64))
    return bool(((found < NEAR) | (np.abs(found - 1) < NEAR)).all())


def differs(one: Mapping[str, Any], other: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether outputs that were hollow are not the same, and not all saturated, in another run of the reference."""
    return all(
        not np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")
        and not is_saturated(other[name])
        for name in names
    )


def _depending(model: ModelProto) -> set[str]:
    """The values that depend on those of an input, not only on its shape."""
    found = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(free_names(node)):
            found.update(node.output)
    return found


def _limited(model: ModelProto) -> set[str]:
    """The values that come straight from a function with limits."""
    found = set[str]()
    for node in model.graph.node:
        if node.op_type in LIMITED or (node.op_type in MOVERS and not found.isdisjoint(node.input)):
            found.update(node.output)
    return found
