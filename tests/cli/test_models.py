"""`edgec models`."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from tests.cli.conftest import Edgec


def test_lists_filter_by_task_and_weights(edgec: Edgec) -> None:
    def names(*options: str) -> set[str]:
        return {entry["name"] for entry in json.loads(edgec("models", "list", "--json", *options).stdout)}

    assert {"shapes-v1", "mobilenetv2"} <= names()
    assert "shapes-v1" in names("--task", "detection")
    assert "mobilenetv2" not in names("--task", "detection")
    assert "shapes-v1" in names("--trained")
    assert "mobilenetv2" not in names("--trained")


def test_a_model_is_shown_with_its_card(edgec: Edgec) -> None:
    shown = json.loads(edgec("models", "show", "shapes-v1", "--json").stdout)
    assert shown["inputs"]
    assert shown["outputs"]
    assert "labels" in shown["card"]
    assert f"{shown['params']:,}" in edgec("models", "show", "shapes-v1").stdout


def test_a_built_model_can_be_read(edgec: Edgec, tmp_path: Path) -> None:
    [built] = json.loads(edgec("models", "build", "shapes-v1", "--json", cwd=tmp_path).stdout)
    assert {"model.onnx", "model.toml"} <= set(built["files"])
    onnx.checker.check_model(onnx.load(tmp_path / built["path"]))


def test_a_wrong_name_is_corrected(edgec: Edgec) -> None:
    done = edgec("models", "show", "mobilenet2")
    assert done.returncode != 0
    assert "did you mean mobilenetv2" in done.stderr


def test_a_file_to_write_to_is_refused_for_a_folder(edgec: Edgec, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for name, told in (("x.onnx", "name a folder, such as x"), ("taken", "is a file")):
        done = edgec("models", "build", "shapes-v1", "-o", name, cwd=tmp_path)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
