"""The schedules of the CUDA back end, compiled for OpenCL and run on this machine's processor by PoCL."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.frontends.relax import converters
from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters import CannotConvert, Node
from edgec.compiler.graph.attention_bands import band_of
from edgec.compiler.graph.attention_spec import Band
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import CompileResult, compile_model
from edgec.models.registry import build as build_model
from edgec.runtime.gpu.code import Launch, unpack
from edgec.targets import Target
from edgec.targets.device_kinds import DEVICE_KINDS
from tests.compiler.backends.opencl.apart import run
from tests.compiler.backends.opencl.backend import REGISTRATION, TARGET, TENSOR_TARGET
from tests.compiler.backends.opencl.tally import TALLY
from tests.compiler.onnx_models import model_of, save

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICE_KINDS, "opencl", REGISTRATION)


def verified(model: Path, folder: Path, target: Target = TARGET) -> CompileResult:
    """Compile and compare with ONNX Runtime on generated inputs; raises where they differ."""
    options = CompileOptions(threads=1, tune="none", cache_dir=folder / "cache")
    result = compile_model(model, target, options, output=folder / "model.edge")
    assert result.evidence["verified"]
    assert result.evidence["where"] == "OpenCL on this processor"
    TALLY.add(result)
    return result


def weights(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")


def test_a_network_of_many_operators(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[2, 2, 2, 2], group=12),
        helper.make_node("HardSwish", ["c"], ["d"]),
        helper.make_node("Add", ["b", "d"], ["e"]),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        helper.make_node("Concat", ["f", "f"], ["g"], axis=1),
        helper.make_node("ConvTranspose", ["g", "w3"], ["h"], strides=[2, 2]),
        helper.make_node("Resize", ["h", "", "scales"], ["i"], mode="linear"),
        helper.make_node("AveragePool", ["i"], ["j"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["j"], ["k"]),
        helper.make_node("Gemm", ["k", "w4"], ["l"], transB=1),
        helper.make_node("LayerNormalization", ["l", "s"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    constants = {
        "w1": weights(12, 3, 3, 3), "w2": weights(12, 1, 5, 5), "w3": weights(24, 6, 2, 2), "w4": weights(10, 216),
        "s": weights(10), "scales": np.array([1, 1, 2, 2], "float32"),
    }  # fmt: skip
    model = model_of(nodes, {"x": [1, 3, 24, 24]}, ["y"], constants)
    assert not verified(save(model, tmp_path), tmp_path).config.segments


def test_recurrent_layers_on_many_threads(tmp_path: Path) -> None:
    """More elements than threads and fewer, two directions, sequences of different lengths, all kinds of gates."""
    kinds: list[tuple[str, int, dict[str, object]]] = [
        ("LSTM", 68, {"clip": 0.7, "input_forget": 1}),
        ("GRU", 12, {"linear_before_reset": 1, "direction": "reverse"}),
        ("GRU", 9, {"direction": "bidirectional"}),
    ]
    nodes, constants, names = [], {"lengths": np.array([5, 2, 0], "int32")}, []
    for number, (kind, hidden, attributes) in enumerate(kinds):
        ways = 2 if attributes.get("direction") == "bidirectional" else 1
        rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
        given = ["x", f"w{number}", f"r{number}", f"b{number}", "lengths" if number == 1 else ""]
        constants |= {
            f"w{number}": weights(ways, rows, 9), f"r{number}": weights(ways, rows, hidden),
            f"b{number}": weights(ways, 2 * rows),
        }  # fmt: skip
        if number == 0:  # with a state to begin with, and peepholes
            given += ["hs", "cs", "p"]
            constants |= {"hs": weights(1, 3, 68), "cs": weights(1, 3, 68), "p": weights(1, 204)}
        outputs = [f"y{number}", f"h{number}", f"c{number}"][: 3 if kind == "LSTM" else 2]
        nodes.append(helper.make_node(kind, given, outputs, hidden_size=hidden, **attributes))
        names += outputs
    model = model_of(nodes, {"x": [5, 3, 9]}, names, constants)
    result = verified(save(model, tmp_path), tmp_path)
    assert not result.config.segments
    header, _ = unpack(rt.Artifact.open(result.artifact).code())
    walks = [step for step in header.steps if isinstance(step, Launch) and step.grid == (3, 1, 1)]
    assert [step.block[0] for step in walks] == [256, 64, 32, 32]  # no launch but one for each direction


def test_numbers_of_eight_bits_that_overflow_are_nan(tmp_path: Path) -> None:
    """A constant that is no number is written by its bits."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT8E4M3FN, saturate=0),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": [64]}, ["y"], {"scale": np.float32(300)}, opset=19)
    assert not verified(save(model, tmp_path), tmp_path).config.segments


def test_attention_and_embeddings(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "wq"], ["q"]),
        helper.make_node("MatMul", ["e", "wk"], ["k"]),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "e"], ["z"]),
        helper.make_node("Gelu", ["z"], ["g"]),
        helper.make_node("ReduceMean", ["g", "axes"], ["y"], keepdims=0),
    ]
    constants = {
        "table": weights(50, 24),
        "wq": weights(24, 24),
        "wk": weights(24, 24),
        "axes": np.array([1]),
    }
    model = model_of(nodes, {"ids": (TensorProto.INT64, [2, 17])}, ["y"], constants, opset=20)
    verified(save(model, tmp_path), tmp_path)


@settings(max_examples=3)
@given(
    rows=st.integers(1, 40),
    keys=st.integers(1, 70),
    width=st.sampled_from([4, 20, 32, 64]),
    mask=st.sampled_from(["", "added", "of a head", "causal", "chosen"]),
)
def test_attention_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory, rows: int, keys: int, width: int, mask: str
) -> None:
    """As exporters write it, with heads split off and joined again: one kernel, by online softmax."""
    folder = tmp_path_factory.mktemp("attention")
    heads = 2
    nodes, constants = (
        [],
        {"split": np.array([0, -1, heads, width]), "join": np.array([0, -1, heads * width])},
    )
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}s"]))
        nodes.append(helper.make_node("Transpose", [f"{name}s"], [f"{name}h"], perm=order))
    nodes.append(helper.make_node("MatMul", ["qh", "kh"], ["products"]))
    nodes.append(helper.make_node("Mul", ["products", "scale"], ["scores"]))
    inputs: dict[str, object] = {
        "q": [1, rows, heads * width], "k": [1, keys, heads * width], "v": [1, keys, heads * width]
    }  # fmt: skip
    constants["scale"] = np.array(width**-0.5, "float32")
    last = "scores"
    if mask == "chosen":
        inputs["mask"] = (TensorProto.BOOL, [1, 1, 1, keys])
        constants["never"] = np.array(-1e4, "float32")
        nodes.append(helper.make_node("Where", ["mask", "scores", "never"], ["masked"]))
        last = "masked"
    elif mask:
        if mask == "causal":
            constants["mask"] = np.triu(np.full((rows, keys), -np.inf, "float32"), 1)
        else:
            inputs["mask"] = [1, heads if mask == "of a head" else 1, rows, keys]
        nodes.append(helper.make_node("Add", ["scores", "mask"], ["masked"]))
        last = "masked"
    nodes += [
        helper.make_node("Softmax", [last], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "vh"], ["z"]),
        helper.make_node("Transpose", ["z"], ["zt"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["zt", "join"], ["y"]),
    ]
    result = verified(save(model_of(nodes, inputs, ["y"], constants), folder), folder)
    assert [kernel.schedule[:9] for kernel in result.config.kernels.values()].count("attention") == 1


@settings(max_examples=2)
@given(
    rows=st.integers(17, 60),
    past=st.integers(0, 40),
    window=st.sampled_from([0, 9, 33]),
    way=st.sampled_from(["added", "chosen", "order", "beside"]),
    seed=st.integers(0, 99),
)
def test_keys_that_are_hidden_by_order_are_not_visited(
    tmp_path_factory: pytest.TempPathFactory, rows: int, past: int, window: int, way: str, seed: int
) -> None:
    """Beside ONNX Runtime, and bit by bit beside the walk over all keys; masks with a past, of local attention, the
    operator's own order, and order beside a mask that comes in."""
    folder, keys = tmp_path_factory.mktemp("order"), rows + past
    away = np.arange(keys) - np.arange(rows)[:, None] - (0 if way == "order" else past)
    seen = (away <= 0) & (away > -window if window and way != "order" else True)
    operands = ["q", "k", "v", *(["mask"] if way != "order" else [])]
    constants = {"mask": seen if way == "chosen" else np.where(seen, 0, -np.inf).astype("float32")}
    inputs: dict[str, object] = {name: [1, 2, rows if name == "q" else keys, 16] for name in "qkv"}
    nodes = []
    if way == "beside":
        constants = {"order": constants["mask"]}
        inputs["padding"] = [1, 1, 1, keys]
        nodes.append(helper.make_node("Add", ["order", "padding"], ["mask"]))
    nodes.append(helper.make_node("Attention", operands, ["y"], is_causal=int(way == "order")))
    model = save(model_of(nodes, inputs, ["y"], {} if way == "order" else constants, opset=23), folder)
    draw = np.random.default_rng(seed)
    drawn = {name: draw.standard_normal(shape).astype("float32") for name, shape in inputs.items()}  # type: ignore[call-overload]
    bands, found = [], []
    for known in (True, False):

        def band(*facts: object, known: bool = known) -> Band | None:
            bands.append(band_of(*facts))  # type: ignore[arg-type]
            return bands[-1] if known else None

        with mock.patch("edgec.compiler.graph.attention.band_of", band):
            artifact = verified(model, folder).artifact
        found.append(run(artifact, drawn, folder)["y"])
    assert bands[0] is not None
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_operator_attention_is_one_kernel(tmp_path: Path, causal: bool) -> None:
    """With zeros for queries that see no key: three of the mask's, and none more by order."""
    node = helper.make_node(
        "Attention", ["q", "k", "v", "mask"], ["y"], q_num_heads=2, kv_num_heads=2, is_causal=int(causal)
    )
    mask = RNG.random((19, 23)) < 0.6
    mask[[2, 7, 18]] = False
    inputs = {"q": [1, 19, 40], "k": [1, 23, 40], "v": [1, 23, 40]}
    model = model_of([node], inputs, ["y"], {"mask": mask}, opset=23)
    result = verified(save(model, tmp_path), tmp_path)
    assert [kernel.schedule[:9] for kernel in result.config.kernels.values()].count("attention") == 1
    assert len(result.config.kernels) == 2  # and a copy behind it


DETERMINANT = [
    helper.make_node("Mul", ["x", "x"], ["a"]),
    helper.make_node("Det", ["a"], ["d"], name="det"),
    helper.make_node("Abs", ["d"], ["y"]),
]


def test_kernels_in_a_fixed_order_run_on_one_thread(tmp_path: Path) -> None:
    model = model_of(DETERMINANT, {"x": [3, 4, 4]}, ["y"])
    assert not verified(save(model, tmp_path), tmp_path).config.segments


def test_parts_that_onnx_runtime_runs_are_called_between_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_node: Node) -> Expr:
        raise CannotConvert("determinants are not compiled here")

    converters.load_all()
    monkeypatch.setitem(converters.CONVERTERS, ("", "Det"), refuse)
    model = model_of(DETERMINANT, {"x": [3, 4, 4]}, ["y"])
    result = verified(save(model, tmp_path), tmp_path)
    assert [segment.nodes for segment in result.config.segments] == [("det",)]


def test_nan_and_infinities_pass(tmp_path: Path) -> None:
    lowest = np.array(np.finfo("float32").min, "float32")
    nodes = [
        helper.make_node("Where", ["mask", "x", "lowest"], ["w"]),
        helper.make_node("Softmax", ["w"], ["soft"], axis=-1),
        helper.make_node("ReduceMax", ["x"], ["most"], axes=[2], keepdims=0),
        helper.make_node("Max", ["x", "lowest"], ["bounded"]),
        helper.make_node("Relu", ["x"], ["relu"]),
    ]
    inputs = {"x": [2, 8, 300], "mask": (TensorProto.BOOL, [2, 8, 300])}
    model = model_of(nodes, inputs, ["soft", "most", "bounded", "relu"], {"lowest": lowest})
    artifact = verified(save(model, tmp_path), tmp_path).artifact
    x = RNG.standard_normal((2, 8, 300)).astype("float32")
    x[0, 0], x[0, 1, 7], x[0, 2, 3] = -np.inf, np.nan, np.inf
    mask = RNG.random((2, 8, 300)) < 0.5
    mask[1, 3] = False  # a row of nothing but the lowest number: every weight is the same
    got = run(artifact, {"x": x, "mask": mask}, tmp_path, profiled=True)
    np.testing.assert_array_equal(got["most"], x.max(axis=2))
    np.testing.assert_array_equal(got["bounded"], np.maximum(x, lowest))
    np.testing.assert_array_equal(got["relu"], np.maximum(x, 0))
    np.testing.assert_allclose(got["soft"][1, 3], 1 / 300, rtol=1e-5)
    assert np.isfinite(got["soft"][1]).all()


def product(
    rank: int, m: int, k: int, n: int
) -> tuple[list[NodeProto], dict[str, list[int]], dict[str, np.ndarray]]:
    shape = [2] * (rank - 2) + [m, k]
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": shape}, {"w": weights(k, n)}


@settings(max_examples=3)
@given(st.integers(2, 4), st.integers(1, 70), st.integers(1, 140), st.integers(1, 70))
def test_products_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory, rank: int, m: int, k: int, n: int
) -> None:
    folder = tmp_path_factory.mktemp("product")
    nodes, inputs, constants = product(rank, m, k, n)
    verified(save(model_of(nodes, inputs, ["y"], constants), folder), folder)


@settings(max_examples=3)
@given(
    channels=st.integers(1, 20),
    filters=st.integers(1, 20),
    size=st.integers(5, 17),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_convolutions_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    channels: int,
    filters: int,
    size: int,
    kernel: int,
    stride: int,
    dilation: int,
) -> None:
    folder = tmp_path_factory.mktemp("convolution")
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4, strides=[stride] * 2, dilations=[dilation] * 2
    )
    size = max(size, dilation * (kernel - 1) + 1)
    constants = {"w": weights(filters, channels, kernel, kernel)}
    verified(save(model_of([node], {"x": [1, channels, size, size + 1]}, ["y"], constants), folder), folder)


@settings(max_examples=4)
@given(
    channels=st.integers(1, 40),
    filters=st.integers(1, 70),
    size=st.integers(5, 13),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
)
def test_convolutions_in_tiles_of_tensor_cores(
    tmp_path_factory: pytest.TempPathFactory, channels: int, filters: int, size: int, kernel: int, stride: int
) -> None:
    """A convolution with a bias, an activation and a sum behind it, and a product."""
    folder = tmp_path_factory.mktemp("tiles")
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[kernel // 2] * 4, strides=[stride] * 2),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "one"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]
    width = (size + 2 * (kernel // 2) - kernel) // stride + 1
    constants = {
        "w": weights(filters, channels, kernel, kernel), "b": weights(filters), "v": weights(width, 9),
        "one": np.array(1, "float32"),
    }  # fmt: skip
    model = model_of(nodes, {"x": [1, channels, size, size]}, ["y"], constants)
    verified(save(model, folder), folder, TENSOR_TARGET)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ds-cnn", "mobilenetv3-small", "shufflenetv2-1.0", "vit-tiny", "bert-mini"])
def test_networks_of_the_zoo(name: str, tmp_path: Path) -> None:
    verified(build_model(name, tmp_path), tmp_path)
