"""Verification refuses what is a little wrong: right models, each broken in one place as a kernel would be.

The broken model runs in ONNX Runtime in place of the artifact, so that a mutation costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.assess import assess, expected_for
from edgec.compiler.verify.extremes import Probe, probes_for
from edgec.compiler.verify.inputs import Arrays, make_inputs
from tests.compiler.small_models import model_of, save

BUDGET = 1e-3
Outputs = Callable[[Arrays], Arrays]


def verdict(source: SourceModel, run: Outputs) -> str:
    """Why verification refuses a model that computes `run`; empty if it accepts it."""
    inputs = make_inputs(source)
    probes = [Probe("", inputs), *probes_for(source, inputs)]
    expected = expected_for(source, probes, 1, BUDGET)
    got = {number: run(probe.inputs) for number, probe in enumerate(probes)}
    errors, judged = assess(source, probes, expected, got, [""] * (len(probes) - 1))
    told = [f"{error.name}: {error.verdict}" for error in errors if not error.ok]
    return "; ".join(told + [f"{one.inputs}: {one.failure}" for one in judged if one.failure])


def runner_of(model: ModelProto) -> Outputs:
    """Runs a model without ONNX Runtime's optimisations: as another right implementation would."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def network() -> ModelProto:
    """A small network with one of each: convolutions, a pool, a recurrent layer, normalisation, a softmax."""
    rng = np.random.default_rng(3)

    def noise(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype("float32")

    constants = {
        "w1": noise(16, 3, 3, 3), "b1": noise(16), "w2": noise(16, 16, 3, 3), "b2": noise(16),
        "wi": noise(1, 32, 16), "ri": noise(1, 32, 8), "w3": noise(8, 12), "b3": noise(12),
        "g": noise(16) + 1, "beta": noise(16), "mean": noise(16), "var": np.abs(noise(16)) + 1,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c1", "g", "beta", "mean", "var"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c2"], ["t"]),
        helper.make_node("Add", ["t", "r1"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReduceMean", ["p"], ["m"], axes=[3], keepdims=0),
        helper.make_node("Transpose", ["m"], ["seq"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["seq", "wi", "ri"], ["", "h"], hidden_size=8),
        helper.make_node("Squeeze", ["h", "zero"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"], axis=1),
    ]
    constants["zero"] = np.array([0])
    return model_of(nodes, {"x": [1, 3, 32, 32]}, ["y", "s"], constants)


def node_of(model: ModelProto, kind: str, number: int = 0) -> NodeProto:
    return [node for node in model.graph.node if node.op_type == kind][number]


def scaled(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).astype("float32"), name))


def attribute(node: NodeProto, name: str, value: object) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def one_weight(values: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed.flat[5] *= 1.001
    return changed


def replaced(model: ModelProto, name: str, *nodes: NodeProto) -> None:
    """Put nodes in the place of the one that makes `name`."""
    place = next(i for i, node in enumerate(model.graph.node) if name in node.output)
    rest = [*model.graph.node[:place], *nodes, *model.graph.node[place + 1 :]]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in rest]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def coarse_tanh(model: ModelProto) -> None:
    """x (27 + x²) / (27 + 9 x²), limited to ±1: right within 2 %."""
    for name, value in (("c27", 27.0), ("c9", 9.0), ("lo", -1.0), ("hi", 1.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, "float32"), name))
    replaced(
        model, "t",
        helper.make_node("Mul", ["c2", "c2"], ["sq"]), helper.make_node("Add", ["sq", "c27"], ["top"]),
        helper.make_node("Mul", ["sq", "c9"], ["sq9"]), helper.make_node("Add", ["sq9", "c27"], ["bottom"]),
        helper.make_node("Div", ["top", "bottom"], ["ratio"]), helper.make_node("Mul", ["c2", "ratio"], ["raw"]),
        helper.make_node("Clip", ["raw", "lo", "hi"], ["t"]),
    )  # fmt: skip


def rounded(model: ModelProto, name: str, kind: int) -> None:
    """A value that passes through a narrower type."""
    maker = next(node for node in model.graph.node if name in node.output)
    copy = NodeProto.FromString(maker.SerializeToString())
    copy.output[0] = "wide"
    replaced(
        model, name, copy, helper.make_node("Cast", ["wide"], ["narrow"], to=kind),
        helper.make_node("Cast", ["narrow"], [name], to=TensorProto.FLOAT),
    )  # fmt: skip


def swallowed_nan(model: ModelProto) -> None:
    """A rectifier that compares, so that NaN becomes 0."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, "float32"), "nothing"))
    replaced(
        model, "r1", helper.make_node("Greater", ["n1", "nothing"], ["positive"]),
        helper.make_node("Where", ["positive", "n1", "nothing"], ["r1"]),
    )  # fmt: skip


MUTATIONS: dict[str, Callable[[ModelProto], object]] = {
    "a pad moved by one": lambda m: attribute(node_of(m, "Conv"), "pads", [0, 1, 2, 1]),
    "pads of another convolution": lambda m: attribute(node_of(m, "Conv", 1), "pads", [2, 2, 0, 0]),
    "no bias": lambda m: node_of(m, "Conv").input.pop(),
    "no bias at the end": lambda m: node_of(m, "Gemm").input.pop(),
    "one weight of 2304, off by a thousandth": lambda m: scaled(m, "w2", one_weight),
    "one weight of 432, off by a thousandth": lambda m: scaled(m, "w1", one_weight),
    "weights of two taps exchanged": lambda m: scaled(m, "w2", lambda w: w[..., ::-1]),
    "channels in another order": lambda m: scaled(m, "w2", lambda w: np.roll(w, 1, 1)),
    "another epsilon": lambda m: attribute(node_of(m, "BatchNormalization"), "epsilon", 1e-4),
    "softmax along the wrong axis": lambda m: attribute(node_of(m, "Softmax"), "axis", 0),
    "a coarse tanh": coarse_tanh,
    "a window shifted by one": lambda m: attribute(node_of(m, "MaxPool"), "pads", [1, 1, 0, 0]),
    "gates in another order": lambda m: scaled(m, "wi", lambda w: np.roll(w, 8, 1)),
    "half precision in between": lambda m: rounded(m, "c1", TensorProto.FLOAT16),
    "half precision of the logits": lambda m: rounded(m, "logits", TensorProto.FLOAT16),
    "NaN swallowed": swallowed_nan,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return load_source(save(network(), tmp_path_factory.mktemp("network")), CompileOptions())


def test_the_model_itself_is_accepted(source: SourceModel) -> None:
    assert verdict(source, runner_of(network())) == ""


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_model_is_refused(source: SourceModel, mutation: str) -> None:
    model = network()
    MUTATIONS[mutation](model)
    assert verdict(source, runner_of(model))


def lanes(outputs: Arrays, spoil: Callable[[np.ndarray], None]) -> Arrays:
    made = {name: np.array(array) for name, array in outputs.items()}
    spoil(made["s"].reshape(-1))
    return made


SPOILED: dict[str, Callable[[np.ndarray], None]] = {
    "the last lane is stale": lambda flat: flat.__setitem__(-1, flat[-9]),
    "one lane of a vector is that of its neighbour": lambda flat: flat.__setitem__(37, flat[38]),
    "a row is stored twice": lambda flat: flat.__setitem__(slice(16, 32), flat[:16].copy()),
    "a value is not written": lambda flat: flat.__setitem__(100, np.nan),
    "NaN becomes zero": lambda flat: flat.__setitem__(np.isnan(flat), 0),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_broken_store_is_refused(source: SourceModel, spoil: str) -> None:
    run = runner_of(network())
    assert verdict(source, lambda inputs: lanes(run(inputs), SPOILED[spoil]))


def spoiled(values: np.ndarray, wrong: float) -> np.ndarray:
    return np.where(np.isinf(values), np.float32(wrong), values)


@pytest.mark.parametrize("wrong", [3e38, np.nan, -np.inf])
def test_infinity_stays_infinite(wrong: float, tmp_path: Path) -> None:
    model = model_of([helper.make_node("Exp", ["x"], ["y"])], {"x": [40]}, ["y"])
    source, run = load_source(save(model, tmp_path), CompileOptions()), runner_of(model)
    assert verdict(source, run) == ""
    told = verdict(source, lambda inputs: {"y": spoiled(run(inputs)["y"], wrong)})
    assert "large numbers: output 'y'" in told


def test_a_small_channel_beside_a_large_one_counts(tmp_path: Path) -> None:
    """Boxes of hundreds of pixels and scores below 1 in one output."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((8, 6)).astype("float32"),
        "s": np.array([640, 640, 640, 640, 1, 1], "float32"),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "s"], ["y"]),
    ]
    model = model_of(nodes, {"x": [50, 8]}, ["y"], constants)
    source, run = load_source(save(model, tmp_path), CompileOptions()), runner_of(model)

    def with_wrong_scores(inputs: Arrays) -> Arrays:
        made = np.array(run(inputs)["y"])
        made[:, 5] += 0.01  # less than a thousandth of 640
        return {"y": made}

    assert verdict(source, run) == ""
    assert verdict(source, with_wrong_scores)


def sensitive() -> Iterator[tuple[str, ModelProto]]:
    """Right models that fp32 rounding takes beyond the usual budget."""
    big = {"c": np.array(300.0, "float32"), "k": np.array(1e-2, "float32")}
    difference = [
        helper.make_node("Mul", ["x", "k"], ["small"]), helper.make_node("Add", ["small", "c"], ["a"]),
        helper.make_node("Sub", ["a", "c"], ["y"]),
    ]  # fmt: skip
    yield "a difference of large numbers", model_of(difference, {"x": [400]}, ["y"], big)
    flat = [
        helper.make_node("Mul", ["x", "k"], ["small"]), helper.make_node("Add", ["small", "c"], ["a"]),
        helper.make_node("LayerNormalization", ["a", "g"], ["y"], axis=-1, epsilon=0.0),
    ]  # fmt: skip
    yield (
        "a flat picture normalised",
        model_of(
            flat,
            {"x": [4, 100]},
            ["y"],
            {"c": np.array(8.0, "float32"), "k": np.array(1e-4, "float32"), "g": np.ones(100, "float32")},
        ),
    )


@pytest.mark.parametrize(("name", "model"), list(sensitive()), ids=[name for name, _ in sensitive()])
def test_rounding_that_a_model_amplifies_is_measured(name: str, model: ModelProto, tmp_path: Path) -> None:
    source = load_source(save(model, tmp_path), CompileOptions())
    inputs = make_inputs(source)
    probes = [Probe("", inputs)]
    expected = expected_for(source, probes, 1, BUDGET)
    (error,), _ = assess(source, probes, expected, {0: expected.outputs}, [])
    assert error.rounding is not None
    assert error.accepted is not None
    assert error.accepted > BUDGET
    wrong = {"y": expected.outputs["y"] + 0.3 * np.abs(expected.outputs["y"]).max()}
    (error,), _ = assess(source, probes, expected, {0: wrong}, [])
    assert not error.ok


def test_nan_is_compared_where_no_operator_leaves_it_open(tmp_path: Path) -> None:
    """A Resize leaves open what becomes of NaN in what it makes, not in the other output."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Resize", ["x", "", "twice"], ["big"], mode="linear"),
        helper.make_node("Sigmoid", ["big"], ["z"]),
    ]
    model = model_of(nodes, {"x": [1, 2, 4, 6]}, ["y", "z"], {"twice": np.array([1, 1, 2, 2], "float32")})
    source = load_source(save(model, tmp_path), CompileOptions())
    run = runner_of(model)
    probe = next(one for one in probes_for(source, make_inputs(source)) if one.name == "NaN")
    assert probe.open == {"z": "Resize"}

    def without_nan(name: str) -> Outputs:
        def changed(inputs: Arrays) -> Arrays:
            made = run(inputs)
            return {**made, name: np.nan_to_num(made[name], nan=0.0, posinf=np.inf, neginf=-np.inf)}

        return changed

    assert not verdict(source, run)
    assert "NaN" in verdict(source, without_nan("y"))
    assert not verdict(source, without_nan("z"))


def test_nan_among_scattered_extremes_is_open(tmp_path: Path) -> None:
    """ONNX Runtime's maxima and those of the standard's evaluator lose it; ours keep it, as maxima do elsewhere."""
    nodes = [helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction="max")]
    inputs = {"x": [6], "u": [4]}
    model = model_of(nodes, inputs, ["y"], {"i": np.array([0, 0, 3, 5])}, opset=18)
    source = load_source(save(model, tmp_path), CompileOptions())
    probe = next(one for one in probes_for(source, make_inputs(source)) if one.name == "NaN")
    assert probe.open == {"y": "ScatterElements"}
