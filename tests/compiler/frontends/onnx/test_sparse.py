"""Sparse tensors become dense ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.sparse import densify
from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

DENSE = np.array([[0, 2, 0], [0, 0, -3]], "float32")


def sparse_model(indices: np.ndarray, shape: list[int] | None = None) -> ModelProto:
    """A product with a sparse matrix of two values."""
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": np.ones((1, 2), "float32")}, {"y": "float32"}
    )
    values = numpy_helper.from_array(np.array([2, -3], "float32"), "w")
    where = numpy_helper.from_array(indices.astype("int64"), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, shape or [2, 3]))
    return model


@pytest.mark.parametrize("indices", [np.array([1, 5]), np.array([[0, 1], [1, 2]])], ids=["flat", "by axis"])
def test_a_sparse_initialiser_is_a_constant(indices: np.ndarray, tmp_path: Path) -> None:
    x = np.array([[1, 10]], "float32")
    assert_native(sparse_model(indices), {"x": x}, tmp_path, {"y": x @ DENSE})


def test_the_value_of_a_constant_may_be_sparse(tmp_path: Path) -> None:
    sparse = sparse_model(np.array([1, 5])).graph.sparse_initializer[0]
    nodes = [
        helper.make_node("Constant", [], ["w"], sparse_value=sparse),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    x = np.array([[1, 10]], "float32")
    assert_native(model_of(nodes, {"x": x}, {"y": "float32"}), {"x": x}, tmp_path, {"y": x @ DENSE})


@pytest.mark.parametrize(
    ("indices", "shape"),
    [
        ([1, 6], [2, 3]),
        ([-1, 5], [2, 3]),
        ([[0, 1], [2, 2]], [2, 3]),
        ([1], [2, 3]),
        ([1, 5], [1 << 20, 1 << 20]),
    ],
)
def test_indices_out_of_range_are_refused(indices: list[int], shape: list[int]) -> None:
    with pytest.raises(ModelError, match="the sparse tensor 'w' has"):
        densify(sparse_model(np.array(indices), shape), Path("m.onnx"))
