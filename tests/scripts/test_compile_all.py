"""The table of models: what it holds can be read back, and models of wheels get their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.compile_all import named, render, rows_of
from scripts.wheel_models import MODELS, sizes_of, table


def _record(name: str, **more: Any) -> dict[str, Any]:
    plain = {
        "model": name,
        "result": "matches",
        "reference": "onnxruntime 1.31.1",
        "date": "2026-11-29",
        "why": "",
    }
    numbers = {"max_abs": 1.5e-6, "max_rel": 2e-7, "seconds": 12, "fallback": [], "native": 1.0}
    return plain | numbers | more


def test_rows_are_recovered_from_the_document(tmp_path: Path) -> None:
    records = [
        _record("a.onnx"),
        _record("pypi/b/c.onnx", fallback=["n1", "n2"], native=0.875),
        {"model": "d.pth", "result": "no", "seconds": 3.0, "date": "2026-11-28", "why": "it holds a | b"},
    ]
    document = tmp_path / "models.md"
    document.write_text(render(records, "host", "", 0))
    found = rows_of(document)
    assert list(found) == ["a.onnx", "pypi/b/c.onnx", "d.pth"]
    assert found["pypi/b/c.onnx"]["native"] == pytest.approx(0.875)
    assert len(found["pypi/b/c.onnx"]["fallback"]) == 2
    assert found["d.pth"]["why"] == "it holds a / b"
    assert render(list(found.values()), "host", "", 0) == document.read_text()


def test_models_of_wheels_are_named_and_sized(tmp_path: Path) -> None:
    model = tmp_path / "rapidocr" / "models" / "PP-OCRv6_det_small.onnx"
    model.parent.mkdir(parents=True)
    model.touch()
    (tmp_path / MODELS).touch()
    assert named([tmp_path]) == {"pypi/rapidocr/models/PP-OCRv6_det_small.onnx": model}
    assert sizes_of("rapidocr/models/PP-OCRv6_det_small.onnx") == ["x:1x3x320x320"]


def test_every_wheel_has_a_version_and_models() -> None:
    assert all(told["version"] and told["models"] for told in table().values())
