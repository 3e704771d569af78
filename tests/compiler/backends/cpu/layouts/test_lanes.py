"""Blocks of half a register: chosen where they pay, and right in every layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import edgec.runtime as rt
from edgec.compiler.backends.cpu import backend
from edgec.compiler.backends.cpu.layouts.lanes import half_blocks
from edgec.compiler.backends.cpu.layouts.planner import plan_layouts
from edgec.compiler.backends.cpu.specs import ConvSpec, decode
from edgec.compiler.graph.anchors import ANCHOR
from edgec.compiler.graph.fusion import kernel_calls
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect
from edgec.targets.loader import load_target
from edgec.targets.target import Target


def _halves(target: Target) -> Target:
    return replace(target, core=replace(target.core, half_vectors=2.0))


def _convolutions(*channels: int, size: int = 32) -> object:
    """1×1 convolutions one after the other."""
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, channels[0], size, size), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            made = x
            for before, after in pairwise(channels):
                weight = relax.const(np.ones((after, before, 1, 1), np.float32))
                made = builder.emit(relax.op.nn.conv2d(made, weight))
            result = builder.emit_output(made)
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize(
    ("channels", "block"), [((8, 24, 24, 8), 8), ((24, 40, 24), 8), ((64, 64, 64, 64), None)]
)
def test_blocks_are_narrow_where_registers_would_be_half_empty(
    channels: tuple[int, ...], block: int | None
) -> None:
    target = load_target("zen4")
    made = plan_layouts(_convolutions(*channels), target)
    assert half_blocks(made, target, 1e-3) == block
    assert half_blocks(made, replace(target, core=replace(target.core, half_vectors=1.0)), 1e-3) is None


def test_all_blocks_of_a_model_are_equally_wide() -> None:
    target = load_target("zen4")
    made = plan_layouts(_convolutions(8, 24, 20), target, block=8)
    specs = [decode(str(made[gv].attrs[ANCHOR])) for gv in kernel_calls(made) if ANCHOR in made[gv].attrs]
    assert [spec.lanes for spec in specs if isinstance(spec, ConvSpec)] == [8, 8]


def _model(seed: int, size: tuple[int, int], channels: list[int], kinds: list[str]) -> onnx.ModelProto:
    """Layers of all kinds that blocks pass through, in fp64."""
    rng = np.random.default_rng(seed)
    nodes, weights, width = [], [], channels[0]

    def constant(*shape: int) -> str:
        scale = np.sqrt(max(1, np.prod(shape[1:])))
        weights.append(numpy_helper.from_array(rng.standard_normal(shape) / scale, f"w{len(weights)}"))
        return weights[-1].name

    last = "x"
    for number, (kind, out) in enumerate(zip(kinds, channels[1:], strict=False)):
        made = f"v{number}"
        if kind == "conv":
            taps = int(rng.choice([1, 3, 5]))
            stride = [int(rng.integers(1, 3))] * 2
            nodes.append(
                helper.make_node("Conv", [last, constant(out, width, taps, taps), constant(out)], [made],
                                 pads=[taps // 2] * 4, strides=stride)
            )  # fmt: skip
            width = out
        elif kind == "depthwise":
            nodes.append(
                helper.make_node("Conv", [last, constant(width, 1, 3, 3)], [made], pads=[1] * 4, group=width)
            )
        elif kind == "grouped":
            groups = next(count for count in (4, 3, 2, 1) if width % count == 0)
            grouped = constant(out * groups, width // groups, 3, 3)
            nodes.append(helper.make_node("Conv", [last, grouped], [made], pads=[1, 0, 1, 2], group=groups))
            width = out * groups
        elif kind == "transposed":
            nodes.append(
                helper.make_node("ConvTranspose", [last, constant(width, out, 2, 2)], [made], strides=[2, 2])
            )
            width = out
        elif kind == "slopes":
            nodes.append(helper.make_node("PRelu", [last, constant(width, 1, 1)], [made]))
        elif kind == "gate":
            nodes.append(helper.make_node("GlobalAveragePool", [last], [f"p{number}"]))
            nodes.append(helper.make_node("Sigmoid", [f"p{number}"], [f"s{number}"]))
            nodes.append(helper.make_node("Mul", [last, f"s{number}"], [made]))
        elif kind == "twice":
            nodes.append(
                helper.make_node("MaxPool", [last], [f"m{number}"], kernel_shape=[3, 3], pads=[1] * 4)
            )
            nodes.append(helper.make_node("Concat", [last, f"m{number}"], [made], axis=1))
            width *= 2
        last = made
    shape = [1, channels[0], *size]
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)]
    outputs = [helper.make_tensor_value_info(last, TensorProto.DOUBLE, None)]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for weight in made.graph.initializer:
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)
        )
    for port in (*made.graph.input, *made.graph.output):
        port.type.tensor_type.elem_type = TensorProto.FLOAT
    return made


def _check(folder: Path, seed: int, size: tuple[int, int], channels: list[int], kinds: list[str]) -> None:
    wide = _model(seed, size, channels, kinds)
    onnx.save(_in_fp32(wide), folder / "m.onnx")
    options = CompileOptions(threads=1, tune="none", verify=False)
    compile_model(folder / "m.onnx", _halves(detect()), options, output=folder / "m.edge")
    given = np.random.default_rng(seed + 1).standard_normal((1, channels[0], *size)).astype(np.float32)
    wanted = ReferenceEvaluator(wide).run(None, {"x": given.astype(np.float64)})[0]
    with rt.load(folder / "m.edge", threads=1) as model:
        (found,) = model.run({"x": given}).values()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1.0, np.abs(wanted).max()), rtol=0)


KINDS = st.lists(
    st.sampled_from(["conv", "grouped", "depthwise", "transposed", "slopes", "gate", "twice"]),
    min_size=1,
    max_size=4,
)
LAYERS = st.tuples(
    st.integers(0, 2**16),
    st.tuples(st.integers(5, 19), st.integers(5, 19)),
    st.lists(st.integers(1, 40), min_size=6, max_size=6),
    KINDS.map(lambda kinds: ["conv", *kinds]),
)


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of half a register in every model."""
    monkeypatch.setattr(backend, "half_blocks", lambda _mod, target, _budget: target.fp32_lanes // 2)


def test_layers_in_narrow_blocks(forced: None, tmp_path: Path) -> None:
    kinds = ["conv", "depthwise", "slopes", "gate", "twice", "grouped", "transposed", "conv"]
    _check(tmp_path, 0, (13, 18), [3, 20, 20, 20, 20, 20, 6, 11, 37], kinds)


@pytest.mark.long
def test_random_layers_in_narrow_blocks(forced: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=60, deadline=None)
    @given(LAYERS)
    def check(layers: tuple[int, tuple[int, int], list[int], list[str]]) -> None:
        _check(tmp_path_factory.mktemp("layers"), *layers)

    check()
