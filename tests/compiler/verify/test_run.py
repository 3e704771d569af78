"""The process that proves an artifact says why it ended, at whatever moment that was."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgec.compiler.backends.this_machine import ThisMachine
from edgec.compiler.errors import CompilerError, VerificationFailed
from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.verify.process import Measure, started
from edgec.targets import detect
from tests.compiler.onnx_models import model_of, save


def test_one_that_ended_before_there_was_an_artifact_says_why(tmp_path: Path) -> None:
    class Stumbling(ThisMachine):
        def command(self, arguments: list[str], python_path: Path) -> tuple[list[str], dict[str, str]]:
            return [
                sys.executable,
                "-c",
                "import sys; sys.exit('edgec.runtime.errors.OneOfThem: no memory')",
            ], {}

    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    file = save(model_of(nodes, {"x": [1, 4]}, ["y"], {}), tmp_path, "m.onnx")
    source = load_source(file, CompileOptions())
    inputs = {"x": np.ones((1, 4), "float32")}
    with started(tmp_path / "never.edge", source, [inputs], 1, Measure(runs=1), Stumbling()) as child:
        child.process.wait(timeout=120)
        child.begin()
        with pytest.raises(CompilerError, match=r"running the artifact failed: no memory$"):
            child.finish()


def test_a_model_of_nothing_but_nan_is_not_equal(tmp_path: Path) -> None:
    """Whatever it is given: the weights are broken."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Relu", ["x"], ["z"])]
    model = model_of(nodes, {"x": [4]}, ["y", "z"], {"w": np.full(4, np.nan, "float32")})
    output = tmp_path / "m.edge"
    options = CompileOptions(tune="none", threads=1)
    with pytest.raises(VerificationFailed, match=r"every value of the output 'y' is NaN .*--verify-with"):
        compile_model(save(model, tmp_path), detect(), options, output=output)
    assert not output.exists()


def test_a_model_that_is_nan_on_the_usual_inputs_is_verified_on_others(tmp_path: Path) -> None:
    """The logarithm of what is negative."""
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Sub", ["a", "big"], ["s"])]
    nodes.append(helper.make_node("Log", ["s"], ["y"]))
    model = model_of(nodes, {"x": [1]}, ["y"], {"big": np.array(1.0, "float32")})
    made = compile_model(
        save(model, tmp_path), detect(), CompileOptions(tune="none", threads=1), output=tmp_path / "m.edge"
    )
    assert made.evidence["verified"]
    assert made.evidence["inputs"] == "generated inputs (seed 0, above 1)"
