"""Inputs made up for verification lie where the model's own inputs do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.onnx.prepare import ports_of
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.inputs import fits, make_inputs, read_inputs
from edgec.compiler.verify.reference import Reference
from tests.compiler.onnx_models import assert_same, model_of, save


def made_for(nodes: list[object], constants: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    model = model_of(nodes, {"x": [1, 3, 32, 32]}, ["y"], constants)
    return make_inputs(load_source(save(model, folder), CompileOptions()))["x"]


def test_pictures_are_in_the_range_that_the_model_centres(tmp_path: Path) -> None:
    means = np.array([104.0, 117.0, 124.0], "float32").reshape(3, 1, 1)
    bytes_in = made_for([helper.make_node("Sub", ["x", "m"], ["y"])], {"m": means}, tmp_path)
    assert 200 < bytes_in.max() <= 255
    assert bytes_in.min() >= 0
    unit_in = made_for([helper.make_node("Sub", ["x", "m"], ["y"])], {"m": means / 255}, tmp_path)
    assert unit_in.max() <= 1
    old = helper.make_node("ImageScaler", ["x"], ["y"], bias=[-104.0, -117.0, -124.0], scale=1.0)
    assert made_for([old], {}, tmp_path).max() > 200


@pytest.mark.parametrize("shape", [[1, 3, 32, 32], [4, 64]])
def test_quantised_inputs_use_the_whole_grid(tmp_path: Path, shape: list[int]) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("QuantizeLinear", ["t", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = {"s": np.array(0.5, "float32"), "z": np.array(-28, "int8")}
    model = model_of(nodes, {"x": shape}, ["y"], constants)
    made = make_inputs(load_source(save(model, tmp_path), CompileOptions()))["x"]
    codes = np.clip(np.rint(made / 0.5) - 28, -128, 127)
    assert codes.min() < -90
    assert codes.max() > 90
    assert codes.std() > 30


def test_a_sigmoid_between_two_roundings_compiles(tmp_path: Path) -> None:
    """Its variables are bound once, however often the vectoriser looks at them."""
    rows, scales = (("q1", "d1"), ("q2", "d2")), {"s1": 0.34, "s2": 0.0039}
    constants = {name: np.array(value, "float32") for name, value in scales.items()}
    constants |= {"z1": np.array(100, "int8"), "z2": np.array(-128, "int8")}
    nodes, value = [], "x"
    for number, (quantised, back) in enumerate(rows, start=1):
        grid = [f"s{number}", f"z{number}"]
        nodes.append(helper.make_node("QuantizeLinear", [value, *grid], [quantised]))
        nodes.append(helper.make_node("DequantizeLinear", [quantised, *grid], [back]))
        value = back
        if number == 1:
            nodes.append(helper.make_node("Sigmoid", [back], ["s"]))
            value = "s"
    nodes.append(helper.make_node("Mul", ["d2", "two"], ["y"]))
    constants["two"] = np.array(2, "float32")
    model = model_of(nodes, {"x": [1, 64]}, ["y"], constants)
    x = np.random.default_rng(0).standard_normal((1, 64)).astype("float32") * 20
    assert_same(model, {"x": x}, tmp_path, atol=0.0079)


def source_of(
    inputs: dict[str, Any], nodes: list[NodeProto] | None = None, **constants: np.ndarray
) -> SourceModel:
    """A source model with such inputs, made without a front end."""
    model = model_of(
        nodes or [helper.make_node("Identity", [next(iter(inputs))], ["y"])], inputs, ["y"], constants
    )
    ports = ports_of(model.graph.input), ports_of(model.graph.output)
    return SourceModel(Path("m.onnx"), "", model, model, *ports, (), {})


def test_given_inputs_get_the_models_types(tmp_path: Path) -> None:
    source = source_of({"x": [2], "n": (TensorProto.INT64, [1])})
    np.savez(tmp_path / "i.npz", x=np.array([1.5, 2.5]), n=np.array([3], np.int32))
    assert fits(tmp_path / "i.npz", source)
    read = read_inputs(tmp_path / "i.npz", source)
    assert (read["x"].dtype, read["n"].dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(read["x"], [1.5, 2.5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": np.zeros(2)}, "also needs the input 'n'; its inputs are x, n"),
        ({"x": np.zeros(2), "n": np.zeros(1), "z": np.zeros(1)}, "has no input 'z'"),
        ({"x": np.zeros(3), "n": np.zeros(1)}, r"'x' must have the shape \[2\], not \[3\]"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_inputs_that_do_not_fit_are_named(tmp_path: Path, given: dict[str, np.ndarray], message: str) -> None:
    source = source_of({"x": [2], "n": (TensorProto.INT64, [1])})
    np.savez(tmp_path / "i.npz", **given)
    assert not fits(tmp_path / "i.npz", source)
    with pytest.raises(InputShapeError, match=message):
        read_inputs(tmp_path / "i.npz", source)


def test_objects_in_a_file_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", x=np.array([print], dtype=object))
    with pytest.raises(InputShapeError, match=r"cannot be read as an \.npz file of arrays"):
        read_inputs(tmp_path / "i.npz", source_of({"x": [1]}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive at all"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "i.npz").write_bytes(content)
    with pytest.raises(InputShapeError, match="cannot be read"):
        fits(tmp_path / "i.npz", source_of({"x": [1]}))


def test_an_array_that_is_damaged_or_has_no_name_is_refused(tmp_path: Path) -> None:
    source, path = source_of({"x": [100]}), tmp_path / "i.npz"
    np.savez(path, x=np.zeros(100))
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputShapeError, match="cannot be read"):
        read_inputs(path, source)
    np.save(tmp_path / "one.npy", np.zeros(100))
    with pytest.raises(InputShapeError, match="a single array"):
        read_inputs(tmp_path / "one.npy", source)


def test_the_same_seed_makes_the_same_inputs_and_another_others() -> None:
    source = source_of({"x": [2, 3]})
    first, again, other = make_inputs(source), make_inputs(source), make_inputs(source, seed=1)
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])


def test_indices_stay_within_the_table_that_they_are_for() -> None:
    gather = [
        helper.make_node("Cast", ["tokens"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["y"]),
    ]
    source = source_of({"tokens": (TensorProto.INT32, [1, 500])}, gather, table=np.zeros((3, 4), np.float32))
    tokens = make_inputs(source)["tokens"]
    assert set(np.unique(tokens)) == {0, 1, 2}


def test_inputs_are_plausible_for_their_kind() -> None:
    made = make_inputs(
        source_of({
            "photo": [1, 3, 16, 16], "last": [1, 16, 16, 3], "sr": (TensorProto.INT64, []),
            "attention_mask": (TensorProto.INT64, [1, 9]), "on": (TensorProto.BOOL, [64]),
            "bytes": (TensorProto.INT8, [1000]),
        })
    )  # fmt: skip
    for name, axis in (("photo", 1), ("last", 3)):
        picture = np.moveaxis(made[name], axis, 1)
        assert 0 <= picture.min() < picture.max() <= 1
        assert np.abs(np.diff(picture, axis=3)).mean() < 0.2  # neighbours are alike
    assert made["sr"] == 16000
    assert made["attention_mask"].all()
    assert 0 < made["on"].mean() < 1
    assert made["bytes"].min() < 0 < made["bytes"].max()


def test_scalars_of_truth_values_are_arrays(tmp_path: Path) -> None:
    """ONNX Runtime refuses numpy's own scalar."""
    node = helper.make_node("Not", ["x"], ["y"])
    made = model_of([node], {"x": (TensorProto.BOOL, [])}, ["y"], output_type=TensorProto.BOOL)
    source = load_source(save(made, tmp_path), CompileOptions())
    inputs = make_inputs(source)
    assert isinstance(inputs["x"], np.ndarray)
    assert Reference(source, 1).run(inputs)["y"] == ~inputs["x"]


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_integers_that_something_is_divided_by_are_not_zero(operator: str, tmp_path: Path) -> None:
    sizes: dict[str, list[int]] = {"a": [400], "b": [400], "c": [], "y": [400]}
    ports = [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in sizes.items()]
    nodes = [
        helper.make_node("Reshape", ["b", "shape"], ["row"]),
        helper.make_node(operator, ["a", "row"], ["q"]),
        helper.make_node(operator, ["q", "c"], ["y"]),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [400])
    graph = helper.make_graph(nodes, "g", ports[:3], ports[3:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    source = load_source(save(model, tmp_path), CompileOptions())
    for seed in range(20):
        made = make_inputs(source, seed)
        assert made["b"].all()
        assert made["c"] != 0
        assert not made["a"].all()
