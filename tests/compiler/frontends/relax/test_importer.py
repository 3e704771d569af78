"""What the importer makes of models, checked by running them beside ONNX Runtime."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tvm.relax.frontend.onnx import onnx_frontend

from edgec.compiler.errors import InternalError, UnsupportedModel
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.frontends.relax.converters.registry import CONVERTERS, CannotConvert, Node
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import assert_same, both, build, model_of, save

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def test_every_binding_is_named_after_its_source_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Conv", ["i", "w"], ["c"], kernel_shape=[3, 3], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Gelu", ["r"], ["y"], name="gelu", domain="com.microsoft"),
    ]
    model = model_of(nodes, {"x": [1, 2, 8, 8]}, ["y"], {"w": normal(4, 2, 3, 3)})
    source = load_source(save(model, tmp_path), CompileOptions())
    main = to_relax(source).mod["main"]
    names = [str(b.var.name) for block in main.body.blocks for b in block.bindings][:-1]
    owners = [int(re.match(r"n(\d+)_", name).group(1)) for name in names]  # type: ignore[union-attr]
    assert set(owners) == {2, 3, 4}
    assert owners == sorted(owners)
    assert [source.nodes[i].label for i in sorted(set(owners))] == ["conv", "relu", "gelu"]


def test_old_resizing_means_what_it_meant(tmp_path: Path) -> None:
    for mode in ("nearest", "linear"):
        node = helper.make_node("Upsample", ["x", "s"], ["y"], mode=mode)
        scales = {"s": np.array([1, 1, 2, 3], "float32")}
        model = model_of([node], {"x": [1, 2, 5, 4]}, ["y"], scales, opset=9)
        assert_same(model, {"x": normal(1, 2, 5, 4)}, tmp_path)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"pads": [1, 0, 0, 1]},
        {"output_padding": [1, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"group": 2},
        {"dilations": [2, 1]},
    ],
)
def test_transposed_convolutions(tmp_path: Path, extra: dict[str, object]) -> None:
    for kernel, stride in product((2, 3), (2, 3)):
        node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[stride, stride], **extra)
        weights = {"w": normal(4, 6 // int(extra.get("group", 1)), kernel, kernel), "b": normal(6)}  # type: ignore[call-overload]
        assert_same(
            model_of([node], {"x": [1, 4, 5, 6]}, ["y"], weights), {"x": normal(1, 4, 5, 6)}, tmp_path
        )


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers(tmp_path: Path, op: str, direction: str) -> None:
    steps, batch, size, hidden = 5, 2, 3, 8
    ways, gates = (2 if direction == "bidirectional" else 1), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    weights = {
        "w": normal(ways, gates * hidden, size),
        "r": normal(ways, gates * hidden, hidden),
        "b": normal(ways, 2 * gates * hidden),
        "h": normal(ways, batch, hidden),
    }
    outputs = ["y", "yh", "yc"] if op == "LSTM" else ["y", "yh"]
    node = helper.make_node(
        op, ["x", "w", "r", "b", "", "h"], outputs, hidden_size=hidden, direction=direction
    )
    model = model_of([node], {"x": [steps, batch, size]}, outputs, weights)
    assert_same(model, {"x": normal(steps, batch, size)}, tmp_path)


def test_gru_resets_after_the_product_when_asked(tmp_path: Path) -> None:
    weights = {"w": normal(1, 24, 3), "r": normal(1, 24, 8), "b": normal(1, 48)}
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=8, linear_before_reset=1)
    assert_same(model_of([node], {"x": [4, 1, 3]}, ["y"], weights), {"x": normal(4, 1, 3)}, tmp_path)


def test_lstm_with_peepholes_lengths_and_clipping(tmp_path: Path) -> None:
    weights = {
        "w": normal(1, 32, 3),
        "r": normal(1, 32, 8),
        "b": normal(1, 64),
        "p": normal(1, 24),
        "n": np.array([5, 3], "int32"),
    }
    names = ["x", "w", "r", "b", "n", "", "", "p"]
    node = helper.make_node("LSTM", names, ["y", "yh", "yc"], hidden_size=8, clip=0.9)
    model = model_of([node], {"x": [5, 2, 3]}, ["y", "yh", "yc"], weights)
    assert_same(model, {"x": normal(5, 2, 3)}, tmp_path)


def test_integer_convolution_and_product_are_exact(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (1, 3, 7, 7)).astype("uint8")
    weights = {
        "w": RNG.integers(-128, 128, (4, 3, 3, 3)).astype("int8"),
        "z": np.array(131, "uint8"),
        "v": RNG.integers(0, 256, (300, 5)).astype("uint8"),
    }
    conv = helper.make_node("ConvInteger", ["x", "w", "z"], ["y"], pads=[1, 1, 1, 1])
    model = model_of(
        [conv], {"x": (TensorProto.UINT8, [1, 3, 7, 7])}, ["y"], weights, output_type=TensorProto.INT32
    )
    expected, got = both(model, {"x": x}, tmp_path)
    np.testing.assert_array_equal(expected[0], got[0])
    product_ = helper.make_node("MatMulInteger", ["x", "v", "z"], ["y"])
    model = model_of(
        [product_], {"x": (TensorProto.UINT8, [2, 300])}, ["y"], weights, output_type=TensorProto.INT32
    )
    expected, got = both(model, {"x": RNG.integers(0, 256, (2, 300)).astype("uint8")}, tmp_path)
    np.testing.assert_array_equal(expected[0], got[0])


def test_shape_arithmetic_is_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["nu"]),
        helper.make_node("Concat", ["nu", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    constants = {
        "zero": np.array(0, "int64"),
        "axis": np.array([0], "int64"),
        "rest": np.array([-1], "int64"),
    }
    model = model_of(nodes, {"x": ["batch", 3, 4]}, ["y"], constants)
    imported, _ = build(save(model, tmp_path), tmp_path)
    assert imported.source.outputs[0].shape == (1, 12)
    assert len(imported.source.model.graph.node) == 1


def test_names_survive(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["in.0/x:0", "in-0/x:0"], ["out put"])
    model = model_of([node], {"in.0/x:0": [4], "in-0/x:0": [4]}, ["out put"])
    imported, _ = build(save(model, tmp_path), tmp_path)
    ports = (*imported.source.inputs, *imported.source.outputs)
    assert [p.name for p in ports] == ["in.0/x:0", "in-0/x:0", "out put"]
    assert len({p.safe_name for p in imported.source.inputs}) == 2
    assert all(p.safe_name.isidentifier() for p in ports)


@pytest.mark.parametrize("repeats", [(3, 6, 4, 2), (1, 6, 1, 1), (2, 1, 1, 3)])
def test_tiles(tmp_path: Path, repeats: tuple[int, ...]) -> None:
    node = helper.make_node("Tile", ["x", "n"], ["y"])
    model = model_of([node], {"x": [2, 3, 4, 5]}, ["y"], {"n": np.array(repeats, "int64")})
    assert_same(model, {"x": normal(2, 3, 4, 5)}, tmp_path)


def test_a_quotient_that_is_cut_stays_a_quotient(tmp_path: Path) -> None:
    """41 times one over 41 is less than 1 in float32."""
    nodes = [helper.make_node("Div", ["x", "d"], ["q"]), helper.make_node("Floor", ["q"], ["y"])]
    model = model_of(nodes, {"x": [200]}, ["y"], {"d": np.array(41, "float32")})
    got, wanted = both(model, {"x": 41 * np.arange(200, dtype="float32")}, tmp_path)
    np.testing.assert_array_equal(got[0], wanted[0])


@pytest.mark.parametrize("error", [TypeError("too few arguments"), KeyError("axis"), AssertionError()])
def test_a_defect_of_a_converter_is_no_fallback(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(node: Node) -> None:
        raise error

    monkeypatch.setitem(CONVERTERS, ("", "Elu"), defective)
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Elu", ["a"], ["y"], name="bend")]
    source = load_source(save(model_of(nodes, {"x": [4]}, ["y"]), tmp_path), CompileOptions())
    with pytest.raises(
        InternalError, match=r"internal error in the converter of Elu at 'bend'.*report"
    ) as caught:
        to_relax(source, fallback_allowed=True)
    assert caught.value.__cause__ is error
    assert caught.value.exit_code == 1


def test_what_a_converter_declares_impossible_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def declining(node: Node) -> None:
        raise CannotConvert("bends too far")

    monkeypatch.setitem(CONVERTERS, ("", "Elu"), declining)
    model = model_of([helper.make_node("Elu", ["x"], ["y"], name="bend")], {"x": [4]}, ["y"])
    source = load_source(save(model, tmp_path), CompileOptions())
    assert [segment.nodes for segment in to_relax(source, fallback_allowed=True).segments] == [("bend",)]
    with pytest.raises(UnsupportedModel, match="bends too far"):
        to_relax(source)


def test_a_failure_of_tvm_s_converter_falls_back_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @classmethod
        def get_converter(cls, opset: int) -> object:
            def convert(*_: object) -> None:
                raise AssertionError("only four axes")

            return convert

    table = onnx_frontend._get_convert_map()
    monkeypatch.setattr(onnx_frontend, "_get_convert_map", lambda: {**table, "Softplus": Broken})
    model = model_of([helper.make_node("Softplus", ["x"], ["y"], name="soft")], {"x": [4]}, ["y"])
    source = load_source(save(model, tmp_path), CompileOptions())
    with pytest.raises(UnsupportedModel, match="TVM's converter fails: only four axes"):
        to_relax(source)
    assert [segment.nodes for segment in to_relax(source, fallback_allowed=True).segments] == [("soft",)]
