"""Equivalence of two models, tested on generated inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.ort_session import outputs_of
from edgec.compiler.frontends.onnx.reference_evaluator import Standard


def computes_alike(new: ModelProto, old: ModelProto, sizes: Mapping[str, int] | None = None) -> bool:
    """Whether both return the same outputs for generated inputs; True if neither runs on them."""
    inputs = generated_inputs(old, sizes)
    expected, got = outputs_of(old, inputs), outputs_of(new, inputs)
    if expected is None or got is None:
        return expected is None and got is None
    return all(is_close(a, b) for a, b in zip(expected, got, strict=True))


def follows_standard(new: ModelProto, old: ModelProto, sizes: Mapping[str, int] | None = None) -> bool:
    """Whether ONNX Runtime's results for `new` are those that the standard's evaluator computes for `old`."""
    inputs = generated_inputs(old, sizes)
    try:
        expected = list(Standard(old).run(inputs).values())
    except ModelError:
        return False
    got = outputs_of(new, inputs)
    return got is not None and all(is_close(a, b) for a, b in zip(expected, got, strict=True))


def runs_in_standard(model: ModelProto, sizes: Mapping[str, int] | None = None) -> bool:
    """Whether the standard's evaluator runs a model on generated inputs."""
    try:
        Standard(model).run(generated_inputs(model, sizes))
    except ModelError:
        return False
    return True


def generated_inputs(
    model: ModelProto, sizes: Mapping[str, int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Uniform noise for floating-point inputs, ones for others; symbolic sizes are those of `sizes`."""
    known = sizes or {}
    rng = np.random.default_rng(0)
    inputs = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = tuple(known.get(d.dim_param, d.dim_value) for d in dims)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        inputs[value.name] = rng.random(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
    return inputs


def is_close(a: Any, b: Any) -> bool:  # noqa: ANN401 - arrays, or whatever else ONNX Runtime returns
    """Whether two outputs are equal up to rounding: within 1 % of the largest value."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=0, atol=1e-2 * scale + 1e-6, equal_nan=True))
