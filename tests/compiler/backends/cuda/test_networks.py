"""Whole networks on the emulated GPU: the artifact's own kernels and launches, compared with ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper
from tvm.tirx import PrimFunc

import edgec.runtime as rt
from edgec.compiler.backends.cuda.gpu_backend import GpuBackend
from edgec.compiler.errors import KernelUnsupported
from edgec.compiler.options import CompileOptions, Precision
from edgec.compiler.pipeline import CompileResult, compile_model
from edgec.models.registry import build as build_model
from edgec.runtime.gpu.code import unpack
from edgec.runtime.gpu.results import DeviceResult
from edgec.targets import load_target
from edgec.targets.device_kinds import DEVICE_KINDS
from tests.compiler.backends.cuda.emulator.backend import REGISTRATION, TARGET, EmulatedRunner
from tests.compiler.backends.cuda.machine_code import disassembled
from tests.compiler.onnx_models import model_of, save

RNG = np.random.default_rng(6)
BUDGET: dict[Precision, float] = {"fp32": 1e-3, "tf32": 5e-3, "fp16": 5e-3, "bf16": 3e-2}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICE_KINDS, "emulated", REGISTRATION)


def verified(model: Path, folder: Path, precision: Precision) -> CompileResult:
    """Compile and compare with ONNX Runtime; raises where they differ."""
    options = CompileOptions(
        threads=1,
        tune="none",
        precision=precision,
        error_budget=BUDGET[precision],
        cache_dir=folder / "cache",
    )
    result = compile_model(model, TARGET, options, output=folder / "model.edge")
    assert result.evidence["verified"]
    assert result.evidence["where"] == "a GPU emulated on this processor"
    return result


def edgec(*arguments: object) -> str:
    """What the command prints on a machine with an emulated GPU."""
    command, environment = EmulatedRunner().command(["-m", "edgec.cli.main", *map(str, arguments)], Path())
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def weights(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    """Convolutions with residuals, one of them depthwise, a pool between them, a concatenation and a product."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "w1", "bias"], ["d"], pads=[1] * 4),
        helper.make_node("Add", ["d", "c"], ["e"]),
        helper.make_node("Clip", ["e", "zero", "six"], ["f"]),
        helper.make_node("Conv", ["f", "w2"], ["g"], pads=[1] * 4, group=16),
        helper.make_node("Sigmoid", ["g"], ["s"]),
        helper.make_node("Mul", ["g", "s"], ["h"]),
        helper.make_node("Concat", ["h", "f"], ["i"], axis=1),
        helper.make_node("Conv", ["i", "w3"], ["j"]),
        helper.make_node("GlobalAveragePool", ["j"], ["k"]),
        helper.make_node("Flatten", ["k"], ["l"]),
        helper.make_node("MatMul", ["l", "w4"], ["y"]),
    ]
    constants = {
        "w0": weights(16, 3, 3, 3), "w1": weights(16, 16, 3, 3), "bias": weights(16), "w2": weights(16, 1, 3, 3),
        "w3": weights(24, 32, 1, 1), "w4": weights(24, 10), "zero": np.float32(0), "six": np.float32(6),
    }  # fmt: skip
    return save(model_of(nodes, {"x": [1, 3, 12, 12]}, ["y", "f"], constants), tmp_path)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_residuals_windows_and_concatenations(residual: Path, tmp_path: Path, precision: Precision) -> None:
    """Values that products share are stored once, in two bytes; one of them is an output of the model, too."""
    result = verified(residual, tmp_path, precision)
    chosen = [kernel.schedule for kernel in rt.Artifact.open(result.artifact).config.kernels.values()]
    assert any("tensor" in one for one in chosen) == (precision == "fp16")
    assert any("thread" in one for one in chosen)
    with rt.load(result.artifact) as model:
        given = {"x": RNG.standard_normal((1, 3, 12, 12)).astype("float32")}
        wanted, found = model.run(given), model.run(given, on_device=["f"])
        assert isinstance(found["f"], DeviceResult)
        for name, array in wanted.items():
            np.testing.assert_array_equal(np.asarray(found[name]), array)
        with pytest.raises(rt.InputError, match=r"no output 'z'; it has y, f"):
            model.run(given, on_device=["z"])


@pytest.mark.parametrize("precision", ["fp16", "fp32", "tf32"])
def test_a_layer_of_a_transformer_is_seven_kernels(tmp_path: Path, precision: Precision) -> None:
    """As exporters write it, with rows flattened before each product and heads split off and joined by reshapes."""
    tokens, width, heads = 9, 32, 2
    nodes: list[NodeProto] = []

    def emit(operator: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [f"v{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def dense(x: str, number: int) -> str:
        product = emit(
            "Gemm", emit("Flatten", emit("Reshape", x, "tokens"), axis=2), f"w{number}", f"b{number}"
        )
        return emit("Reshape", product, "tokens")

    first = emit("LayerNormalization", "x", "scale", "shift")
    split = emit("Reshape", dense(first, 0), "split")
    turned = emit("Transpose", split, perm=[2, 0, 3, 1, 4])
    query, key, value = (emit("Gather", turned, f"at{number}", axis=0) for number in range(3))
    scores = emit("MatMul", emit("Mul", query, "factor"), emit("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = emit("MatMul", emit("Softmax", scores, axis=-1), value)
    joined = emit("Reshape", emit("Transpose", mixed, perm=[0, 2, 1, 3]), "tokens")
    middle = emit("Add", "x", dense(joined, 1))
    inner = dense(emit("LayerNormalization", middle, "scale", "shift"), 2)
    error = emit("Erf", emit("Div", inner, "root"))
    active = emit("Mul", emit("Mul", inner, emit("Add", error, "one")), "half")
    last = emit("Add", middle, dense(active, 3))
    constants: dict[str, np.ndarray] = {
        "scale": weights(width) + 1, "shift": weights(width), "factor": np.float32(width**-0.5),
        "tokens": np.array([1, tokens, -1]),
        "split": np.array([1, tokens, 3, heads, width // heads]), "root": np.float32(2**0.5),
        "one": np.float32(1), "half": np.float32(0.5), **{f"at{n}": np.array(n) for n in range(3)},
    }  # fmt: skip
    for number, shape in enumerate(
        [(width, 3 * width), (width, width), (width, 2 * width), (2 * width, width)]
    ):
        constants |= {f"w{number}": weights(*shape), f"b{number}": weights(shape[1])}
    model = model_of(nodes, {"x": [1, tokens, width]}, [last], constants)
    result = verified(save(model, tmp_path), tmp_path, precision)
    header, _ = unpack(rt.Artifact.open(result.artifact).code())
    assert len(header.steps) == 7
    chosen = [kernel.schedule for kernel in rt.Artifact.open(result.artifact).config.kernels.values()]
    assert sum("tensor" in one for one in chosen) == (0 if precision == "fp32" else 4)


@pytest.mark.long
@pytest.mark.timeout(7200)  # the emulator takes networks thread by thread
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("ds-cnn", "fp16"), ("ds-cnn", "fp32"), ("mobilenetv2", "fp16"), ("mobilenetv2", "bf16"),
        ("resnet18", "fp16"), ("vit-tiny", "fp16"), ("yolov8n-320", "fp16"), ("bert-mini", "fp16"),
    ],
)  # fmt: skip
def test_networks_of_the_zoo(name: str, precision: Precision, tmp_path: Path) -> None:
    verified(build_model(name, tmp_path / name), tmp_path, precision)


def test_an_output_that_is_a_view_and_a_choice_of_the_largest(tmp_path: Path) -> None:
    """Results that end in a reshape get their own memory; the largest element has no rule for threads that meet."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Reshape", ["a", "flat"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["at"], axis=1, keepdims=0),
        helper.make_node("Cast", ["at"], ["largest"], to=TensorProto.FLOAT),
    ]
    constants = {"w": weights(8, 4, 3, 3), "flat": np.array([1, -1])}
    model = save(model_of(nodes, {"x": [1, 4, 6, 6]}, ["y", "largest"], constants), tmp_path)
    verified(model, tmp_path, "fp32")


def test_what_has_no_kernel_runs_on_the_host(
    residual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest stays on the GPU; the report names what does not."""
    schedule = GpuBackend.schedule

    def without_sigmoid(self: GpuBackend, func: PrimFunc, threads: int) -> PrimFunc:
        if "sigmoid" in func.script():
            raise KernelUnsupported("no kernel")
        return schedule(self, func, threads)

    def no_workload(*_: object) -> None:
        return None

    monkeypatch.setattr(GpuBackend, "schedule", without_sigmoid)
    monkeypatch.setattr(GpuBackend, "workload_of", no_workload)
    result = verified(residual, tmp_path, "fp32")
    (segment,) = result.evidence["fallback"]
    assert any("Sigmoid" in node for node in segment["nodes"])
    profile = json.loads(edgec("profile", result.artifact, "--repeats", "2", "--json"))
    layers = {layer["bound"]: layer for layer in profile["layers"]}
    assert layers["host"]["bytes"] == 2 * 4 * 16 * 36  # a picture there and one back
    assert layers["host"]["peak_share"] is None
    assert all(layer["bytes"] > 0 and layer["ms"] > 0 for layer in profile["layers"])
    assert profile["gpu"]["gbytes"] == 300
    bench = json.loads(edgec("bench", result.artifact, residual, "--runs", "2", "--limit", "1", "--json"))
    assert set(bench["latency"]) == {"edgec", "onnxruntime", "edgec, by events"}
    assert bench["latency"]["edgec, by events"]["median_ms"] > 0


def test_a_quantised_network_is_exact_on_tensor_cores_for_integers(tmp_path: Path) -> None:
    """Convolutions, one of them depthwise, and a residual between quantised values, as exporters write it."""
    nodes: list[NodeProto] = []
    constants: dict[str, np.ndarray] = {}

    def rounded(x: str, scale: float, zero: int) -> str:
        number = len(nodes)
        constants[f"s{number}"], constants[f"z{number}"] = np.float32(scale), np.uint8(zero)
        nodes.append(helper.make_node("QuantizeLinear", [x, f"s{number}", f"z{number}"], [f"q{number}"]))
        given = [f"q{number}", f"s{number}", f"z{number}"]
        nodes.append(helper.make_node("DequantizeLinear", given, [f"d{number}"]))
        return f"d{number}"

    def convolution(x: str, shape: tuple[int, ...], relu: bool, **attributes: object) -> str:
        number = len(nodes)
        constants[f"w{number}"] = RNG.integers(-127, 128, shape).astype("int8")
        constants[f"ws{number}"] = (RNG.uniform(0.5, 1, shape[0]) / np.prod(shape[1:])).astype("float32")
        constants[f"wz{number}"] = np.zeros(shape[0], "int8")
        given = [f"w{number}", f"ws{number}", f"wz{number}"]
        nodes.append(helper.make_node("DequantizeLinear", given, [f"wd{number}"], axis=0))
        nodes.append(helper.make_node("Conv", [x, f"wd{number}"], [f"c{number}"], **attributes))
        if relu:
            nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        return rounded(f"r{number}" if relu else f"c{number}", 0.05, 0 if relu else 120)

    first = convolution(rounded("x", 0.03, 128), (32, 16, 3, 3), True, pads=[1] * 4)
    depthwise = convolution(first, (32, 1, 3, 3), True, pads=[1] * 4, group=32)
    last = convolution(depthwise, (32, 32, 1, 1), False)
    nodes.append(helper.make_node("Add", [first, last], ["sum"]))
    nodes.append(helper.make_node("Identity", [rounded("sum", 0.07, 20)], ["y"]))
    model = save(model_of(nodes, {"x": [1, 16, 8, 8]}, ["y"], constants), tmp_path)
    result = verified(model, tmp_path, "fp32")
    assert not result.evidence["fallback"]
    assert [one["max_abs"] for one in result.evidence["outputs"]] == [0.0]
    options = CompileOptions(verify=False, tune="none", cache_dir=tmp_path / "cache")
    made = compile_model(model, load_target("l4"), options, output=tmp_path / "l4.edge")
    code = disassembled(made.artifact, tmp_path)
    assert sum("IMMA.16832.U8.S8" in one or "IMMA.16816.U8.S8" in one for one in code) == 2


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_recurrent_layer_stays_on_the_device(tmp_path: Path, kind: str) -> None:
    """The threads of a block meet between the gates and the state in each step."""
    hidden, rows = 24, {"LSTM": 96, "GRU": 72}[kind]
    constants = {"w": weights(1, rows, 8), "r": weights(1, rows, hidden)}
    nodes = [helper.make_node(kind, ["x", "w", "r"], ["y", "h"], hidden_size=hidden)]
    model = save(model_of(nodes, {"x": [4, 2, 8]}, ["y", "h"], constants), tmp_path)
    result = verified(model, tmp_path, "fp32")
    assert not result.evidence["fallback"]


def _sizes_of_the_data() -> list[NodeProto]:
    """What is not zero is gathered: how much that is, a run tells."""
    return [
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("NonZero", ["b"], ["at"]),
        helper.make_node("Transpose", ["at"], ["places"]),
        helper.make_node("GatherND", ["b", "places"], ["values"]),
        helper.make_node("ReduceMax", ["values"], ["largest"], keepdims=0),
        helper.make_node("Div", ["b", "largest"], ["c"]),
    ]


def test_results_whose_sizes_a_run_tells_come_from_the_host(tmp_path: Path) -> None:
    """What makes them runs there; the results of fixed sizes stay on the device if they are to."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4),
        helper.make_node("Relu", ["y"], ["a"]),
        helper.make_node("NonZero", ["a"], ["at"]),
        helper.make_node("Cast", ["at"], ["places"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["at"], ["rows"], perm=[1, 0]),
        helper.make_node("GatherND", ["a", "rows"], ["values"]),
        helper.make_node("ReduceMax", ["values"], ["largest"], keepdims=1),
    ]
    model = model_of(
        nodes, {"x": [1, 3, 6, 6]}, ["y", "places", "largest", "values"], {"w": weights(4, 3, 3, 3)}
    )
    path = save(model, tmp_path)
    result = verified(path, tmp_path, "fp32")
    header, _ = unpack(rt.Artifact.open(result.artifact).code())
    assert header.format == 2
    assert [one.varies for one in header.outputs] == [False, True, False, True]
    session = onnxruntime.InferenceSession(str(path))
    with rt.load(result.artifact) as loaded:
        for scale in (1, -1):  # another number of values is above zero
            x = (scale * np.arange(108).reshape(1, 3, 6, 6) / 108).astype("float32")
            found = loaded.run({"x": x}, on_device=True)
            assert isinstance(found["y"], DeviceResult)
            for name, array in zip(found, session.run(list(found), {"x": x}), strict=True):
                assert np.asarray(found[name]).shape == array.shape
                np.testing.assert_allclose(np.asarray(found[name]), array, rtol=0, atol=1e-5)


def _branch() -> list[NodeProto]:
    """One of two convolutions, by the data."""
    graphs = []
    for name, sources in (("yes", ["a", "w1"]), ("no", ["x", "w0"])):
        node = helper.make_node("Conv", sources, [name], pads=[1] * 4)
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 6, 6])
        graphs.append(helper.make_graph([node], name, [], [result]))
    return [
        helper.make_node("ReduceSum", ["a"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["choice"]),
        helper.make_node("If", ["choice"], ["c"], then_branch=graphs[0], else_branch=graphs[1]),
    ]


@pytest.mark.parametrize("middle", [_sizes_of_the_data, _branch])
def test_control_flow_and_sizes_of_the_data_run_on_the_host(
    tmp_path: Path, middle: Callable[[], list[NodeProto]]
) -> None:
    """The convolutions around it stay on the GPU."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        *middle(),
        helper.make_node("Conv", ["c", "w2"], ["y"]),
    ]
    constants = {
        "w0": weights(8, 4, 3, 3),
        "w1": weights(8, 8, 3, 3),
        "w2": weights(4, 8, 1, 1),
        "zero": np.float32(0),
    }
    used = {name for node in nodes for name in node.input} | ({"w1"} if middle is _branch else set())
    constants = {name: value for name, value in constants.items() if name in used}
    result = verified(
        save(model_of(nodes, {"x": [1, 4, 6, 6]}, ["y"], constants), tmp_path), tmp_path, "fp32"
    )
    assert len(result.evidence["fallback"]) == 1
    assert len(rt.Artifact.open(result.artifact).config.kernels) > 2


def test_patches_of_which_a_tile_has_only_some_are_gathered(tmp_path: Path) -> None:
    """Four patches of 16 x 16 x 3: beyond them a tile reads places that do not lie side by side."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], strides=[16, 16])]
    model = save(model_of(nodes, {"x": [1, 3, 32, 32]}, ["y"], {"w": weights(192, 3, 16, 16)}), tmp_path)
    verified(model, tmp_path, "fp16")
