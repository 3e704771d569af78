"""Inputs of an artifact without its source model: from a file, or random but always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.benchmarks.inputs import artifact_inputs
from edgec.targets import UsageError

SPECS = [
    rt.TensorSpec(name="x", safe_name="x", shape=(2, 500), dtype="float32"),
    rt.TensorSpec(name="ids", safe_name="ids", shape=(1, 64), dtype="int64"),
]


def test_random_inputs_repeat_and_fit() -> None:
    first, again = artifact_inputs(SPECS, None), artifact_inputs(SPECS, None)
    for spec in SPECS:
        assert (first[spec.name].shape, first[spec.name].dtype) == (spec.shape, spec.dtype)
        assert np.array_equal(first[spec.name], again[spec.name])
    assert 0.9 < first["x"].std() < 1.1
    assert set(first["ids"].reshape(-1).tolist()) == {0, 1}


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=np.arange(3))
    assert artifact_inputs(SPECS, tmp_path / "a.npz")["other"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.npz: cannot be read as an \.npz file"):
        artifact_inputs(SPECS, path)
