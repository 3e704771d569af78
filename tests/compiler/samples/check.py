"""Samples through the compiler: many side by side in one artifact, and one by one where that fails."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.targets import EdgecError
from tests.compiler.onnx_models import build, save
from tests.compiler.samples.sample import Array, Sample, inputs_of, model_of

# The evaluator's operators check little.
EVALUATOR_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)
RTOL = {"float16": 4e-3, "float32": 2e-5, "float64": 2e-5}


@dataclass(frozen=True)
class Outcome:
    """What came of a sample: `native`, `fallback`, `wrong`, `refused` or `unknown` (the standard's evaluator fails)."""

    sample: Sample
    result: str
    detail: str = ""


def expected_of(sample: Sample) -> list[Array] | str:
    """The outputs by the standard's evaluator, or why it has none."""
    model = typed(model_of([sample]))
    if sample.truth is not None:
        return list(sample.truth)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            values = ReferenceEvaluator(model).run(None, inputs_of([sample]))
        except EVALUATOR_ERRORS as error:
            return f"{type(error).__name__}: {error}"
    kinds = [value.type.tensor_type.elem_type for value in model.graph.output]
    # numpy adds small integers in wide ones
    return [
        np.asarray(value).astype(helper.tensor_dtype_to_np_dtype(kind))
        for value, kind in zip(values, kinds, strict=True)
    ]


def typed(model: ModelProto) -> ModelProto:
    """The model with the types of its outputs.

    Raises:
        onnx.shape_inference.InferenceError: the standard does not allow it.
    """
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def difference(sample: Sample, got: Sequence[Array], expected: Sequence[Array]) -> str:
    """How results differ from the expected ones; empty where they do not."""
    for position, (value, wanted) in enumerate(zip(got, expected, strict=True)):
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            return f"output {position}: {value.dtype}{value.shape}, not {wanted.dtype}{wanted.shape}"
        if wanted.dtype.kind != "f":
            if not np.array_equal(value, wanted):
                return f"output {position}: {_first(value, wanted, value != wanted)}"
            continue
        rtol = sample.rtol or RTOL[wanted.dtype.name]
        wide, right = value.astype("float64"), wanted.astype("float64")
        largest = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
        close = np.isclose(wide, right, rtol, 0.1 * rtol * largest + 1e-7, equal_nan=True)
        if not close.all():
            return f"output {position}: {_first(value, wanted, ~close)}"
    return ""


def _first(value: Array, wanted: Array, off: Array) -> str:
    place = tuple(int(axis[0]) for axis in np.nonzero(np.atleast_1d(off)))
    return f"{np.atleast_1d(value)[place]} at {place}, not {np.atleast_1d(wanted)[place]}"


def outcomes(samples: Sequence[Sample], folder: Path) -> list[Outcome]:
    """What comes of samples of one opset."""
    told: list[Outcome] = []
    known: list[tuple[Sample, list[Array]]] = []
    for sample in samples:
        expected = expected_of(sample)
        if isinstance(expected, str):
            told.append(Outcome(sample, "unknown", expected))
        else:
            known.append((sample, expected))
    return told + _compiled(known, folder)


def _compiled(known: Sequence[tuple[Sample, list[Array]]], folder: Path) -> list[Outcome]:
    if not known:
        return []
    samples = [sample for sample, _ in known]
    options = CompileOptions(tune="none", threads=1)
    try:
        imported, artifact = build(save(typed(model_of(samples)), folder), folder, options)
        with rt.load(artifact, threads=1) as model:
            got = model.run(inputs_of(samples))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported as the sample's
        if len(known) > 1:
            half = len(known) // 2
            return _compiled(known[:half], folder) + _compiled(known[half:], folder)
        kind = "refused" if isinstance(error, EdgecError) else "wrong"
        return [Outcome(samples[0], kind, f"{type(error).__name__}: {str(error)[:400]}")]
    elsewhere = {name for segment in imported.segments for name in segment.outputs}
    told = []
    for number, (sample, expected) in enumerate(known):
        names = [f"o{number}_{k}" for k in range(sample.outputs)]
        detail = difference(sample, [got[name] for name in names], expected)
        kind = "fallback" if elsewhere & set(names) else "native"
        told.append(Outcome(sample, "wrong" if detail else kind, detail))
    return told
