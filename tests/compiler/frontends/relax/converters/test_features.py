"""Operators of classical models, each against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import assert_same, model_of, save

ML = "ai.onnx.ml"
RNG = np.random.default_rng(3)


def floats(*shape: int) -> list[float]:
    return [float(v) for v in RNG.standard_normal(shape).reshape(-1)]


def one_node(
    op_type: str, elem: int = TensorProto.FLOAT, out: int = TensorProto.FLOAT, **attributes: Any
) -> ModelProto:
    outputs = ["label", "scores"] if op_type.endswith("Classifier") else ["y"]
    node = helper.make_node(op_type, ["x"], outputs, domain=ML, **attributes)
    model = model_of([node], {"x": (elem, [4, 3])}, outputs, output_type=out)
    model.opset_import.add(domain=ML, version=3)
    if op_type.endswith("Classifier"):
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
        model.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT
    return model


MULTI = {"coefficients": floats(3, 3), "intercepts": floats(3), "classlabels_ints": [4, 7, 9]}
SVR = {"coefficients": floats(5), "support_vectors": floats(5, 3), "n_supports": 5, "rho": [0.3]}
CASES = {
    "regressor": ("LinearRegressor", {"coefficients": floats(2, 3), "intercepts": [0.5, -1.0], "targets": 2}),
    "classifier": ("LinearClassifier", MULTI | {"post_transform": "NONE"}),
    "softmax": ("LinearClassifier", MULTI | {"post_transform": "SOFTMAX"}),
    "logistic": ("LinearClassifier", MULTI | {"post_transform": "LOGISTIC"}),
    "scaler": ("Scaler", {"offset": [0.5, -1.0, 2.0], "scale": [2.0, 0.25, -1.0]}),
    "scaler by one": ("Scaler", {"offset": [0.5], "scale": [2.0]}),
    "norm max": ("Normalizer", {"norm": "MAX"}),
    "norm l1": ("Normalizer", {"norm": "L1"}),
    "norm l2": ("Normalizer", {"norm": "L2"}),
    "binarizer": ("Binarizer", {"threshold": 0.25}),
    "svr linear": ("SVMRegressor", SVR | {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 3.0]}),
    "svr radial": ("SVMRegressor", SVR | {"kernel_type": "RBF", "kernel_params": [0.4, 0.0, 3.0]}),
    "svr polynomial": ("SVMRegressor", SVR | {"kernel_type": "POLY", "kernel_params": [0.4, 0.5, 3.0]}),
    "svr sigmoid": ("SVMRegressor", SVR | {"kernel_type": "SIGMOID", "kernel_params": [0.4, 0.5, 3.0]}),
}


@pytest.mark.parametrize("name", CASES)
def test_real_numbers(name: str, tmp_path: Path) -> None:
    op_type, attributes = CASES[name]
    model = one_node(op_type, **attributes)
    options = CompileOptions()
    assert not to_relax(load_source(save(model, tmp_path), options), fallback_allowed=True).segments
    assert_same(model, {"x": RNG.standard_normal((4, 3)).astype("float32")}, tmp_path)


def test_missing_numbers_are_filled_in(tmp_path: Path) -> None:
    x = RNG.standard_normal((4, 3)).astype("float32")
    x[1, 2] = x[3, 0] = np.nan
    model = one_node("Imputer", imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=float("nan"))
    assert_same(model, {"x": x}, tmp_path)


def test_classes_of_numbers(tmp_path: Path) -> None:
    x = RNG.integers(0, 5, (4, 3)).astype("int64")
    encoder = one_node("OneHotEncoder", TensorProto.INT64, cats_int64s=[0, 2, 3], zeros=1)
    assert_same(encoder, {"x": x}, tmp_path)
    labels = one_node(
        "LabelEncoder",
        TensorProto.INT64,
        TensorProto.INT64,
        keys_int64s=[0, 1, 4],
        values_int64s=[7, 5, 3],
        default_int64=-2,
    )
    assert_same(labels, {"x": x}, tmp_path)
