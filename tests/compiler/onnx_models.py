"""How to run small ONNX models through the whole compiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.frontends import ImportedModel, load_source, to_relax
from edgec.compiler.lower import lower
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Silent
from edgec.targets import detect
from tests.compiler.small_models import model_of, save

__all__ = ["Arrays", "assert_same", "both", "build", "model_of", "save"]

Arrays = dict[str, np.ndarray]


def build(path: Path, folder: Path, options: CompileOptions | None = None) -> tuple[ImportedModel, Path]:
    """Import, lower and pack a model without verification."""
    options = options or CompileOptions(tune="none", threads=1)
    imported = to_relax(load_source(path, options), fallback_allowed=options.fallback)
    target = detect()
    lowered = lower(imported.mod, target, options, Silent(), parts=imported.parts)
    config = pack.make_config(
        imported.source,
        lowered,
        target,
        options,
        name="m",
        version="1",
        card=None,
        segments=imported.segments,
    )
    artifact = folder / f"{path.stem}.edge"
    initial = pack.initial_values(imported.source)
    pack.write(artifact, config, lowered, segments=imported.segments, initial=initial)
    return imported, artifact


def both(model: ModelProto, inputs: Arrays, folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs of ONNX Runtime and of the compiled model."""
    imported, artifact = build(save(model, folder), folder)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    expected = ort.InferenceSession(model.SerializeToString(), options).run(None, inputs)
    with rt.load(artifact, threads=1) as loaded:
        got = loaded.run(inputs)
    return expected, [got[port.name] for port in imported.source.outputs]


def assert_same(model: ModelProto, inputs: Arrays, folder: Path, atol: float = 1e-4) -> None:
    """Both give the same."""
    expected, got = both(model, inputs, folder)
    for a, b in zip(expected, got, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=atol)
