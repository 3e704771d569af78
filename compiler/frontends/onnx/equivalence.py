"""Equivalence of two models, tested on generated inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.ort_session import outputs_of
from edgec.compiler.frontends.onnx.reference_evaluator import Standard

MOST_NOISE = 1_000_003  # numbers drawn for one input; a prime, so that those of a larger one repeat in no row
BLOCK = 1 << 20
TOGETHER_BYTES = 256 << 20  # of a model of which two sessions are open at once
MOST_BYTES = 1 << 46  # of an input: what processors can address


def computes_alike(new: ModelProto, old: ModelProto, sizes: Mapping[str, int] | None = None) -> bool:
    """Whether both return the same outputs for generated inputs; True if neither runs on them."""
    inputs = generated_inputs(old, sizes)
    # ONNX Runtime releases the interpreter's lock, and each session has one thread.
    with ThreadPoolExecutor(2 if old.ByteSize() <= TOGETHER_BYTES else 1) as threads:
        expected, got = threads.map(lambda model: outputs_of(model, inputs), (old, new))
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
        if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= MOST_BYTES:  # as numpy counts
            raise ModelError(f"the input {value.name!r} of shape {list(shape)} is larger than any memory")
        inputs[value.name] = _noise(rng, shape, dtype) if dtype.kind == "f" else np.ones(shape, dtype)
    return inputs


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    size = math.prod(shape)
    made = rng.random(min(size, MOST_NOISE)).astype(dtype)
    return made.reshape(shape) if size == made.size else np.resize(made, shape)


def is_close(a: Any, b: Any) -> bool:  # noqa: ANN401 - arrays, or whatever else ONNX Runtime returns
    """Whether two outputs are equal up to rounding: within 1 % of the largest value."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    if np.array_equal(a, b):
        return True
    blocks = range(0, a.size, BLOCK)  # an output may fill the memory: no copies of the whole
    flat, other = a.reshape(-1), b.reshape(-1)
    scale = max((_largest(flat[at : at + BLOCK]) for at in blocks), default=0.0)
    limits = {"rtol": 0.0, "atol": 1e-2 * scale + 1e-6}
    return all(
        np.allclose(flat[at : at + BLOCK], other[at : at + BLOCK], **limits, equal_nan=True) for at in blocks
    )


def _largest(values: npt.NDArray[Any]) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
