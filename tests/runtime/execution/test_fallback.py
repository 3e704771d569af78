"""Fallback segments: ONNX Runtime is called by name, writes into given memory, and is released with its last user."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.execution import fallback
from edgec.runtime.execution.fallback import FallbackSegments
from edgec.runtime.execution.shared_libraries import ensure_runtime, ffi
from edgec.runtime.execution.threads import Threading
from tests.runtime.artifact.artifacts import config

THREADING = Threading.of(1, None)


def segment(function: str = "edgec.fallback.test", layer: str = "0.onnx") -> rt.Segment:
    return rt.Segment(inputs=("a", "b"), outputs=("sum",), function=function, layer=layer, nodes=("add",))


@pytest.fixture
def artifact(tmp_path: Path) -> rt.Artifact:
    """An artifact with a graph that adds two tensors of any shape."""
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    onnx = pytest.importorskip("onnx", reason="pip install 'edgec[compiler]'")
    ensure_runtime(lambda _: None)
    values = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("a", "b", "sum")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["a", "b"], ["sum"])], "g", values[:2], values[2:]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    path = tmp_path / "a.edge"
    rt.write_artifact(path, config=config(), code=b"\x7fELF", weights={}, fallback={"0.onnx": model})
    return rt.Artifact.open(path)


def call(*arrays: Any) -> Any:
    function = ffi().get_global_func("edgec.fallback.test")
    return function(*(ffi().from_dlpack(array) for array in arrays))


def test_results_of_known_shape_are_written_into_the_callers_memory(artifact: rt.Artifact) -> None:
    segments = FallbackSegments(artifact, [segment()], THREADING)
    a, b, out = np.float32([1, 2]), np.float32([10, 20]), np.zeros(2, np.float32)
    assert call(a, b, out) is None
    assert out.tolist() == [11, 22]
    segments.close()


def test_results_of_unknown_shape_are_returned(artifact: rt.Artifact) -> None:
    segments = FallbackSegments(artifact, [segment()], THREADING)
    assert np.from_dlpack(call(np.float32([1, 2, 3]), np.float32([1, 1, 1]))).tolist() == [2, 3, 4]
    segments.close()


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1)])
def test_results_of_unknown_shape_keep_their_rank(artifact: rt.Artifact, shape: tuple[int, ...]) -> None:
    segments = FallbackSegments(artifact, [segment()], THREADING)
    one = np.ones(shape, np.float32)
    assert np.from_dlpack(call(one, one)).shape == shape
    segments.close()


def test_a_function_stays_while_another_artifact_uses_it(artifact: rt.Artifact) -> None:
    first = FallbackSegments(artifact, [segment()], THREADING)
    second = FallbackSegments(artifact, [segment()], THREADING)
    first.close()
    first.close()  # again: it has nothing left to release
    assert np.from_dlpack(call(np.float32([1]), np.float32([2]))).tolist() == [3]
    second.close()
    assert ffi().get_global_func("edgec.fallback.test", allow_missing=True) is None
    assert "edgec.fallback.test" not in fallback._users


def test_a_missing_graph_and_a_foreign_name_are_refused(artifact: rt.Artifact) -> None:
    with pytest.raises(rt.ArtifactError, match=r"the graph '1\.onnx' of a segment is missing"):
        FallbackSegments(artifact, [segment(layer="1.onnx")], THREADING)
    with pytest.raises(rt.ArtifactError, match="the function of a segment is not named"):
        FallbackSegments(artifact, [segment(function="runtime.NumThreads")], THREADING)


def test_without_onnxruntime_the_nodes_and_the_remedy_are_named(
    artifact: rt.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(rt.IncompatibleDevice, match=r"runs 1 nodes \(add\) .* pip install onnxruntime"):
        FallbackSegments(artifact, [segment()], THREADING)


def test_sessions_are_released_on_close(artifact: rt.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    genuine = fallback.session_of

    class Session:
        def __init__(self, inner: Any) -> None:
            self.run = inner.run

    def session_of(*arguments: Any) -> Any:
        session = Session(genuine(*arguments))
        made.append(weakref.ref(session))
        return session

    monkeypatch.setattr(fallback, "session_of", session_of)
    segments = FallbackSegments(artifact, [segment()], THREADING)
    assert made[0]() is not None
    segments.close()
    gc.collect()
    assert made[0]() is None
