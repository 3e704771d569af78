"""How a model fails is told apart from where its file lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import helper

from edgec.compiler.verify.trial import Request, attempt
from tests.compiler.small_models import model_of, save


def test_a_signature_is_the_same_wherever_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[0, 2])
    path = save(model_of([pool], {"x": [1, 2, 8, 8]}, ["y"], {}, 17), tmp_path)
    monkeypatch.chdir(tmp_path)
    beside, elsewhere = attempt(Request(path.name, "host")), attempt(Request(str(path), "host"))
    assert beside is not None
    assert elsewhere is not None
    assert beside.signature == elsewhere.signature
