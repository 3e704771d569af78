"""What a device compares of a model's outputs: small differences pass, other results do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.runtime.artifact.config import TensorSpec
from edgec.runtime.artifact.golden import describe, differences, golden_inputs


def outputs(scale: float = 3.0, size: int = 1000) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0).standard_normal(size) * scale
    return {"a": numbers.reshape(1, -1).astype(np.float32), "k": np.arange(5, dtype=np.int64)}


def test_inputs_are_a_ramp_of_the_right_type() -> None:
    specs = [
        TensorSpec(name=name, safe_name=name, shape=(2, 3), dtype=name)
        for name in ("float32", "uint8", "int64", "bool")
    ]
    made = golden_inputs(specs)
    assert {name: (array.shape, array.dtype) for name, array in made.items()} == {
        spec.name: ((2, 3), np.dtype(spec.dtype)) for spec in specs
    }
    assert made["float32"].max() == 1
    assert made["uint8"].max() == 255
    assert made["int64"].max() == 0


@given(st.floats(1e-3, 1e3), st.integers(1, 5000), st.floats(-0.004, 0.004))
def test_rounding_passes_through_json(scale: float, size: int, noise: float) -> None:
    seen = outputs(scale, size)
    golden = json.loads(json.dumps(describe(seen)))
    moved = {"a": seen["a"] + np.float32(noise) * np.abs(seen["a"]).max(), "k": seen["k"]}
    assert differences(golden, moved) == []


@pytest.mark.parametrize("change", ["other", "shape", "nan", "missing", "zeros"])
def test_other_outputs_are_named(change: str) -> None:
    seen = outputs()
    golden = json.loads(json.dumps(describe(seen)))
    wrong = {
        "other": {**seen, "a": seen["a"][:, ::-1]},
        "shape": {**seen, "a": seen["a"][:, :-1]},
        "nan": {**seen, "a": np.full_like(seen["a"], np.nan)},
        "missing": {"a": seen["a"]},
        "zeros": {**seen, "a": seen["a"] * 0},
    }[change]
    assert len(differences(golden, wrong)) == 1


def test_what_is_not_finite_is_not_described() -> None:
    assert describe({"a": np.array([1.0, np.inf])}) is None
