"""Random models with control flow and sizes known only at run time compile natively and compute what they mean."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import ModelProto

import edgec.runtime as rt
from tests.compiler.interpreter import outputs_of
from tests.compiler.onnx_models import build, save
from tests.compiler.random_programs import programs


def check(model: ModelProto, inputs: dict[str, np.ndarray]) -> None:
    expected = outputs_of(model, inputs)
    with tempfile.TemporaryDirectory() as folder:
        imported, artifact = build(save(model, Path(folder)), Path(folder))
        assert not imported.segments
        with rt.load(artifact, threads=1) as loaded:
            kept = {spec.name for spec in loaded.inputs}
            for _ in range(2):  # the second run finds the arena in use before
                got = loaded.run({name: array for name, array in inputs.items() if name in kept})
                for name, value in expected.items():
                    assert got[name].shape == np.shape(value)
                    np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs(program: tuple[ModelProto, dict[str, np.ndarray]]) -> None:
    check(*program)


@pytest.mark.long
@pytest.mark.timeout(7200)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(depth=3))
def test_many_random_programs(program: tuple[ModelProto, dict[str, np.ndarray]]) -> None:
    check(*program)
