"""Weights are plain safetensors whose tensors lie on 64-byte boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edgec.runtime as rt
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.reader import Artifact
from tests.runtime.artifact.artifacts import config, write


def test_weights_are_plain_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    write(tmp_path / "a.edge")
    artifact = Artifact.open(tmp_path / "a.edge")
    layer = artifact.layer(oci.WEIGHTS_TYPE)
    assert layer is not None
    tensors = safetensors.load(artifact.read(layer))
    assert {name for name in tensors if not name.startswith("__")} == {"w", "b"}


@settings(max_examples=40, deadline=None)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1).filter(
            lambda s: not s.startswith("__")
        ),
        hnp.arrays(
            st.sampled_from([np.dtype(kind) for kind in ("f4", "f2", "i1", "u1", "i4", "i8", "?")]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        ),
        max_size=5,
    )
)
def test_weights_of_any_shape_and_name_come_back_on_their_boundary(
    arrays: dict[str, Any], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("w") / "a.edge"
    rt.write_artifact(path, config=config(), code=b"x", weights=arrays)
    found = Artifact.open(path).weights()
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].array.tobytes() == array.tobytes()
        assert found[name].array.shape == array.shape
        assert found[name].array.ctypes.data % 64 == 0
