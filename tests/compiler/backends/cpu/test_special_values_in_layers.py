"""NaN and infinities through layers: they reach what depends on them, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper, numpy_helper

from tests.compiler.backends.cpu.test_special_values import compiled

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SPECIAL = st.sampled_from([np.nan, np.inf, -np.inf])


def constants(**values: np.ndarray) -> list[NodeProto]:
    """Nodes that give constants."""
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(v), name))
        for name, v in values.items()
    ]


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resizing_spreads_a_broken_pixel_no_further_than_its_taps(mode: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (1, 2, 9, 7)).astype("float32")
    nodes = constants(sizes=np.array([1, 2, 14, 5], "int64"))
    nodes.append(helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode))
    with compiled(nodes, {"x": x}, {"y": "float32"}, tmp_path) as model:
        clean = model({"x": x})["y"]

        @FEW
        @given(SPECIAL, st.integers(0, 1), st.integers(0, 8), st.integers(0, 6))
        def check(value: float, channel: int, row: int, column: int) -> None:
            broken = x.copy()
            broken[0, channel, row, column] = value
            got = model({"x": broken})["y"]
            reach = 1 if mode == "linear" else 2
            rows = (np.arange(14) + 0.5) * 9 / 14 - 0.5
            columns = (np.arange(5) + 0.5) * 7 / 5 - 0.5
            near = (np.abs(rows - row) <= reach)[:, None] & (np.abs(columns - column) <= reach)[None, :]
            away = np.ones((2, 14, 5), bool)
            away[channel] = ~near
            np.testing.assert_array_equal(got[0][away], clean[0][away])
            share = np.abs(rows - row).min() < 0.5 and np.abs(columns - column).min() < 0.5
            assert not np.isfinite(got).all() or not share

        check()


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_layer_forgets_nothing_and_mixes_no_sequences(op: str, tmp_path: Path) -> None:
    random, gates = np.random.default_rng(1), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    x = random.uniform(-1, 1, (6, 3, 4)).astype("float32")
    w = random.uniform(-0.5, 0.5, (1, gates * 8, 4)).astype("float32")
    r = random.uniform(-0.5, 0.5, (1, gates * 8, 8)).astype("float32")
    nodes = [*constants(w=w, r=r), helper.make_node(op, ["x", "w", "r"], ["y"], hidden_size=8)]
    with compiled(nodes, {"x": x}, {"y": "float32"}, tmp_path) as model:
        clean = model({"x": x})["y"]

        @FEW
        @given(st.integers(0, 5), st.integers(0, 2), st.integers(0, 3))
        def check(step: int, sequence: int, feature: int) -> None:
            broken = x.copy()
            broken[step, sequence, feature] = np.nan
            got = model({"x": broken})["y"]
            assert np.isnan(got[step:, 0, sequence]).all()
            got[step:, 0, sequence] = clean[step:, 0, sequence]
            np.testing.assert_array_equal(got, clean)

        check()


LAYERS = {
    "softmax": (helper.make_node("Softmax", ["x"], ["softmax"], axis=-1), (3,)),
    "softmax1": (helper.make_node("Softmax", ["x"], ["softmax1"], axis=1), (1,)),
    "logsoftmax": (helper.make_node("LogSoftmax", ["x"], ["logsoftmax"], axis=2), (2,)),
    "layer": (helper.make_node("LayerNormalization", ["x", "one8"], ["layer"], axis=-1), (3,)),
    "instance": (helper.make_node("InstanceNormalization", ["x", "one4", "one4"], ["instance"]), (2, 3)),
    "mean": (helper.make_node("ReduceMean", ["x", "last"], ["mean"]), (3,)),
    "sum": (helper.make_node("ReduceSum", ["x", "second"], ["sum"]), (1,)),
    "max": (helper.make_node("ReduceMax", ["x", "last"], ["max"]), (3,)),
    "logsumexp": (helper.make_node("ReduceLogSumExp", ["x", "last"], ["logsumexp"]), (3,)),
    "product": (helper.make_node("MatMul", ["x", "square"], ["product"]), (3,)),
    "relu": (helper.make_node("Relu", ["x"], ["relu"]), ()),
}


def test_layers_over_some_axes_spread_nan_along_these(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    x = random.uniform(-1, 1, (2, 4, 5, 8)).astype("float32")
    given_ones = {"one8": np.ones(8, "float32"), "one4": np.ones(4, "float32")}
    given_axes = {"last": np.array([-1], "int64"), "second": np.array([1], "int64")}
    square = random.uniform(0.1, 1, (8, 8)).astype("float32")
    nodes = [*constants(**given_ones, **given_axes, square=square), *(node for node, _ in LAYERS.values())]
    with compiled(nodes, {"x": x}, dict.fromkeys(LAYERS, "float32"), tmp_path) as model:
        clean = model({"x": x})

        @FEW
        @given(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 4), st.integers(0, 7)))
        def check(place: tuple[int, ...]) -> None:
            broken = x.copy()
            broken[place] = np.nan
            got = model({"x": broken})
            for name, (_, axes) in LAYERS.items():
                at = tuple(slice(None) if a in axes else slice(p, p + 1) for a, p in enumerate(place))
                assert np.isnan(got[name][at]).all(), name
                got[name][at] = clean[name][at]
                np.testing.assert_array_equal(got[name], clean[name], err_msg=name)

        check()
