"""The process that proves an artifact says why it ended, at whatever moment that was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from edgec.compiler.backends.this_machine import ThisMachine
from edgec.compiler.errors import CompilerError
from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.run import Measure, started
from tests.compiler.onnx_models import model_of, save


def test_one_that_ended_before_there_was_an_artifact_says_why(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    file = save(model_of(nodes, {"x": [1, 4]}, ["y"], {}), tmp_path, "m.onnx")
    source = replace(load_source(file, CompileOptions()), reference=ModelProto())  # ONNX Runtime refuses that
    inputs = {"x": np.ones((1, 4), "float32")}
    with started(tmp_path / "never.edge", source, inputs, 1, Measure(runs=1), ThisMachine()) as child:
        child.process.wait(timeout=120)
        child.begin()
        with pytest.raises(CompilerError, match=r"running the artifact failed: .*reference\.onnx"):
            child.finish()
