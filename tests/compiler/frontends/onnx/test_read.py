"""Damaged and hostile files are refused with a message, quickly and without harm."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgec.compiler.errors import InputShapeError, ModelError, UnsupportedModel
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.options import CompileOptions
from edgec.targets import EdgecError
from tests.compiler.onnx_models import model_of, save

RELU = helper.make_node("Relu", ["x"], ["y"], name="r")


def refuse(path: Path, message: str, **shapes: tuple[int, ...]) -> None:
    with pytest.raises(EdgecError, match=message) as caught:
        to_relax(load_source(path, CompileOptions(input_shapes=shapes)), fallback_allowed=True)
    assert len(str(caught.value).splitlines()) <= 2


def test_no_file_no_model_and_a_cut_one(tmp_path: Path) -> None:
    refuse(tmp_path / "none.onnx", "no such file")
    (tmp_path / "text.onnx").write_text("this is no model")
    refuse(tmp_path / "text.onnx", "not an ONNX model|no graph")
    whole = save(model_of([RELU], {"x": [64]}, ["y"], {"w": np.ones(500, "float32")}), tmp_path).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / "cut.onnx", "cut short|no graph")


def test_external_data_must_be_there_and_inside(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, ["y"])
    (tmp_path / "sub").mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "sub" / "link").symlink_to(tmp_path / "secret")
    tensor = numpy_helper.from_array(np.ones(4, "float32"), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL

    def located(location: str, **more: str) -> Path:
        del model.graph.initializer[:]
        del tensor.external_data[:]
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)
        return save(model, tmp_path / "sub")

    refuse(located("weights.bin"), "weights.bin.*missing")
    refuse(located("../secret"), "outside")
    refuse(located(str(tmp_path / "secret")), "outside")
    refuse(located("link"), "outside")
    (tmp_path / "sub" / "weights.bin").write_bytes(np.full(4, 2.0, "float32").tobytes())
    refuse(located("weights.bin", offset="8"), "does not hold|cut short")
    refuse(located("weights.bin", offset="8", length="16"), "cut short")
    refuse(located("weights.bin", offset="x"), "invalid offset")
    assert load_source(located("weights.bin"), CompileOptions()).inputs[0].shape == (4,)


def test_graphs_that_cannot_run(tmp_path: Path) -> None:
    loop = [
        helper.make_node("Relu", ["b"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
    ]
    refuse(save(model_of(loop, {"x": [4]}, ["b"]), tmp_path), "cycle among one, two")
    refuse(save(model_of([RELU], {"x": [4]}, ["z"]), tmp_path), "no node computes the output 'z'")
    refuse(save(model_of([RELU, RELU], {"x": [4]}, ["y"]), tmp_path), "computed more than once")
    stray = helper.make_node("Add", ["x", "q"], ["y"], name="add")
    refuse(save(model_of([stray], {"x": [4]}, ["y"]), tmp_path), "reads 'q', which no node computes")


def test_nodes_in_any_order_compile(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    source = load_source(save(model_of(nodes, {"x": [4]}, ["y"]), tmp_path), CompileOptions())
    assert [node.op_type for node in source.nodes] == ["Neg", "Relu"]


def test_functions_that_call_themselves_or_explode(tmp_path: Path) -> None:
    def function(name: str, *called: str) -> object:
        nodes = [helper.make_node(c, ["x" if i == 0 else f"t{i - 1}"], [f"t{i}"], domain="own")
                 for i, c in enumerate(called)]  # fmt: skip
        nodes.append(helper.make_node("Identity", [f"t{len(called) - 1}" if called else "x"], ["y"]))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        return helper.make_function("own", name, ["x"], ["y"], nodes, opsets)

    call = helper.make_node("f0", ["x"], ["y"], domain="own")
    recursive = model_of([call], {"x": [4]}, ["y"], functions=[function("f0", "f1"), function("f1", "f0")])
    refuse(save(recursive, tmp_path), "calls itself")
    levels = [function(f"f{i}", *[f"f{i + 1}"] * 10) for i in range(8)] + [function("f8")]
    begin = time.monotonic()
    refuse(save(model_of([call], {"x": [4]}, ["y"], functions=levels), tmp_path), "more than 1000000 nodes")
    assert time.monotonic() - begin < 20


def test_huge_and_negative_sizes(tmp_path: Path) -> None:
    fill = [helper.make_node("ConstantOfShape", ["n"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    huge = model_of(fill, {"x": [1]}, ["y"], {"n": np.array([1 << 40], "int64")})
    refuse(save(huge, tmp_path), "larger than 8 GiB")
    refuse(save(model_of([RELU], {"x": [1 << 40]}, ["y"]), tmp_path), "GiB")
    weight = numpy_helper.from_array(np.ones(4, "float32"), "w")
    weight.dims[0] = 1 << 50
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, ["y"])
    model.graph.initializer.append(weight)
    refuse(save(model, tmp_path), "does not hold the data")
    model.graph.initializer[0].dims[0] = -4
    refuse(save(model, tmp_path), "negative dimension")


def test_tensors_that_no_library_could_read(tmp_path: Path) -> None:
    """Data in segments, in the field of another type, of another size where values share bytes, or text as a scale."""
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["y"])]

    def stored(name: str, kind: int) -> Path:
        model = model_of(nodes, {}, ["y"], {"w": np.ones(8, "int8"), "s": np.array(0.5, "float32")}, opset=21)
        tensor = next(t for t in model.graph.initializer if t.name == name)
        if kind == 0:
            tensor.segment.end = 8
        elif kind == 1:
            tensor.ClearField("raw_data")
            tensor.int64_data.extend([1] * 8)
        elif kind == 2:
            tensor.data_type = TensorProto.INT4
        elif kind == 3:
            tensor.ClearField("raw_data")
            tensor.data_type = TensorProto.STRING
            tensor.string_data.append(b"\xff")
        return save(model, tmp_path)

    refuse(stored("w", 0), "segments")
    refuse(stored("w", 1), "does not hold the data")
    refuse(stored("w", 2), "does not hold the data")
    refuse(stored("s", 3), "contradicts|type")


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    path = save(model_of([RELU], {"x": ["batch", 3, "height", "width"]}, ["y"]), tmp_path)
    with pytest.raises(InputShapeError, match=r"--input x:batchx3xheightxwidth"):
        load_source(path, CompileOptions())
    refuse(path, "no input 'image'; its inputs are x", image=(1, 3, 8, 8))
    refuse(path, "1x4x8x8 does not fit", x=(1, 4, 8, 8))
    refuse(path, "does not fit", x=(1, 3, 8))
    refuse(path, "must not be negative", x=(-1, 3, 8, 8))
    assert load_source(path, CompileOptions(input_shapes={"x": (1, 3, 8, 9)})).outputs[0].shape == (
        1,
        3,
        8,
        9,
    )


def test_an_unknown_operator_is_named_with_its_domain(tmp_path: Path) -> None:
    odd = [
        helper.make_node("Warp", ["x"], ["a"], name="bend", domain="acme"),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    path = save(model_of(odd, {"x": [4]}, ["y"]), tmp_path)
    with pytest.raises(UnsupportedModel, match=r"Warp \(acme\) at 'bend'") as caught:
        to_relax(load_source(path, CompileOptions()), fallback_allowed=True)
    assert [node.node for node in caught.value.nodes] == ["bend"]
    assert "export the model" in str(caught.value)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=12))
def test_altered_bytes_never_crash_the_loader(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "s"], ["y"]),
    ]
    constants = {"w": np.ones((2, 1, 3, 3), "float32"), "s": np.array([1, -1], "int64")}
    content = bytearray(model_of(nodes, {"x": [1, 1, 6, 6]}, ["y"], constants).SerializeToString())
    for position, value in edits:
        content[position % len(content)] = value
    path = tmp_path / "altered.onnx"
    path.write_bytes(bytes(content))
    try:
        load_source(path, CompileOptions())
    except EdgecError as error:
        assert str(error)  # noqa: PT017 - either outcome is right; only a crash is not


def test_garbage_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError):
        load_source(tmp_path / "empty.onnx", CompileOptions())
