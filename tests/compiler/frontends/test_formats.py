"""Files of every format find their front end, or hear what to do instead."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from edgec.compiler.errors import ModelError, ToolMissing
from edgec.compiler.frontends import formats, load_source
from edgec.compiler.options import CompileOptions


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("onnx/ml/xgb_classifier.onnx", formats.ONNX),
        ("onnx/classify/mnist_cntk.onnx", formats.ONNX),
        ("tflite/tflm/hello_world_int8.tflite", formats.TFLITE),
        ("xgboost/xg_agaricus.model", formats.XGBOOST),
        ("xgboost/mushroom.model", formats.XGBOOST),
        ("xgboost/lgbm_breast_cancer.txt", formats.LIGHTGBM),
        ("pytorch/silero_vad.jit", formats.TORCH_SCRIPT),
        ("pytorch/minifasnet_v2_2.7_80x80.pth", formats.STATE_DICT),
        ("tflite/mlperf_tiny/ic_resnet8.h5", formats.KERAS),
        ("tflite/mlperf_tiny/kws_ref_savedmodel", formats.SAVED_MODEL),
    ],
)
def test_content_tells_the_format(name: str, kind: formats.Format, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / name
    assert formats.detect(path) is kind
    if path.is_file():  # whatever it is called
        other = tmp_path / "model.bin"
        other.write_bytes(path.read_bytes())
        assert formats.detect(other) is kind


def test_a_format_without_a_front_end_comes_with_advice(shared_data: Path) -> None:
    with pytest.raises(ModelError, match=r"without the code of the model.*torch\.export"):
        load_source(shared_data / "pytorch" / "minifasnet_v2_2.7_80x80.pth", CompileOptions())


def test_a_missing_extra_is_named(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ai_edge_litert.schema_py_generated", "sklearn", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ToolMissing, match=r"edgec\[tflite\]"):
        load_source(shared_data / "tflite" / "tflm" / "hello_world_int8.tflite", CompileOptions())
    with pytest.raises(ToolMissing, match=r"edgec\[torch\]"):
        load_source(shared_data / "pytorch" / "silero_vad.jit", CompileOptions())
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ToolMissing, match=r"edgec\[trees\]"):
        load_source(tmp_path / "model.pkl", CompileOptions())


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match="damaged archive"):
        load_source(path, CompileOptions())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    assert formats.detect(path) is formats.TORCH_PROGRAM  # by its suffix: nothing inside says otherwise


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.pt2"])
def test_what_a_download_leaves_in_place_of_a_model_is_named(
    name: str, content: bytes, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=told):
        load_source(tmp_path / name, CompileOptions())
