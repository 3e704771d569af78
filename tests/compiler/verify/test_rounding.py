"""What rounding does to a model, measured by perturbation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.rounding import perturbed_runs
from tests.compiler.small_models import model_of, save


def test_sums_before_a_quantisation_of_microsoft_are_perturbed(tmp_path: Path) -> None:
    """ONNX Runtime's quantiser writes 16-bit grids in its own domain, behind which the standard infers no shapes."""
    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(1e-4).reshape(()), "z": np.int16(0).reshape(()), "w": rng.normal(size=(64, 64)).astype("f4"),
    }  # fmt: skip
    domain = "com.microsoft"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain=domain),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["real"], domain=domain),
        helper.make_node("MatMul", ["real", "w"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "s", "z"], ["codes"], domain=domain),
        helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["back"], domain=domain),
        helper.make_node("MatMul", ["back", "w"], ["y"]),
    ]
    model = model_of(nodes, {"x": (TensorProto.FLOAT, [64, 64])}, ["y"], constants)
    model.opset_import.append(helper.make_opsetid(domain, 1))
    source = load_source(save(model, tmp_path), CompileOptions())
    first, second = perturbed_runs(source, {"x": rng.normal(0, 0.1, (64, 64)).astype("f4")})
    assert np.abs(first["y"] - second["y"]).max() > 0.5e-4  # values on an edge fell on either side
