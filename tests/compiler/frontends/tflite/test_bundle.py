"""MediaPipe's bundles."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.load import read_any
from edgec.compiler.options import CompileOptions

OPTIONS = CompileOptions(tune="none", threads=1)


def bundle(path: Path, members: dict[str, bytes]) -> Path:
    """An archive, uncompressed as MediaPipe's are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def sine(shared_data: Path) -> bytes:
    return (shared_data / "tflite/tflm/hello_world_float.tflite").read_bytes()


def test_a_bundle_of_one_model_is_that_model(sine: bytes, tmp_path: Path) -> None:
    path = bundle(tmp_path / "one.task", {"metadata.json": b"{}", "model.tflite": sine})
    assert read_any(path, OPTIONS).model.graph.node
    assert read_any(path / "model.tflite", OPTIONS).digest == read_any(path, OPTIONS).digest


def test_of_several_models_one_is_named(sine: bytes, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("hand_detector.tflite", sine)
    members = {"gesture.tflite": sine, "hand_landmarker.task": inner.getvalue(), "LLM_PREFILL": sine}
    path = bundle(tmp_path / "several.task", members)
    with pytest.raises(
        ModelError, match=r"holds 3 models; name one of .*gesture.tflite.*hand_detector.tflite"
    ):
        read_any(path, OPTIONS)
    for name in ("gesture.tflite", "hand_landmarker.task/hand_detector.tflite", "LLM_PREFILL"):
        assert read_any(path / name, OPTIONS).model.graph.node
    with pytest.raises(ModelError, match=r"holds no 'face\.tflite'"):
        read_any(path / "face.tflite", OPTIONS)


def test_bundles_without_models_and_damaged_ones(sine: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no TensorFlow Lite model"):
        read_any(bundle(tmp_path / "none.task", {"a.txt": b"text"}), OPTIONS)
    whole = bundle(tmp_path / "whole.task", {"model.tflite": sine}).read_bytes()
    damaged = tmp_path / "damaged.task"
    damaged.write_bytes(whole[:400] + bytes([whole[400] ^ 1]) + whole[401:])
    with pytest.raises(ModelError, match="damaged archive"):
        read_any(damaged, OPTIONS)
    (tmp_path / "file.onnx").write_bytes(b"something else")
    with pytest.raises(ModelError, match="no bundle of models"):
        read_any(tmp_path / "file.onnx" / "model.tflite", OPTIONS)
