"""Verification beside compilers that are wrong in one branch, in one round of a loop, at run-time amounts, in a layout,
in an integer kernel, or in what a stream remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.helper import make_node as node

from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.verify.assess import assess_steps, expected_for
from edgec.compiler.verify.extremes import Probe
from edgec.compiler.verify.inputs import make_inputs
from edgec.compiler.verify.run import verify
from edgec.compiler.verify.sequences import carry, initial_inputs, steps_of
from edgec.targets import detect
from tests.compiler.onnx_models import build
from tests.compiler.small_models import model_of, save
from tests.compiler.verify.test_mutations import BUDGET, Arrays, runner_of
from tests.compiler.verify.test_wrong_compilers import Pair, noise, real

INFO = helper.make_tensor_value_info
FLAG = {"x": [8, 24], "c": (TensorProto.BOOL, [])}
COUNT = {"x": [8, 24], "n": (TensorProto.INT64, [])}
BYTES = {"x": (TensorProto.UINT8, [4, 40])}


def graph(nodes: Sequence[NodeProto], output: str, kind: int = TensorProto.FLOAT) -> GraphProto:
    """A branch."""
    return helper.make_graph(list(nodes), "g", [], [INFO(output, kind, None)])


def chosen(yes: Sequence[NodeProto], no: Sequence[NodeProto], condition: str = "c") -> NodeProto:
    """An If whose branches make `t` and `e`."""
    return node("If", [condition], ["y"], then_branch=graph(yes, "t"), else_branch=graph(no, "e"))


TANH, SIGMOID = [node("Tanh", ["x"], ["t"])], [node("Sigmoid", ["x"], ["e"])]
OFF_YES = [node("Tanh", ["x"], ["u"]), node("Mul", ["u", "k"], ["t"])]
OFF_NO = [node("Sigmoid", ["x"], ["u"]), node("Mul", ["u", "k"], ["e"])]
OFF = {"k": real(1.01)}


def rounds(
    *made: NodeProto,
    count: str = "n",
    again: Sequence[NodeProto] = (),
    outputs: Sequence[str] = ("y", "rows"),
) -> NodeProto:
    """A Loop over `s`, which begins as `x`; the body makes `a` of it and the row `r`."""
    going = again or [node("Identity", ["go"], ["on"])]
    body = helper.make_graph(
        [*going, *made, node("ReduceMean", ["a"], ["r"], keepdims=0)],
        "b",
        [
            INFO("i", TensorProto.INT64, []),
            INFO("go", TensorProto.BOOL, []),
            INFO("s", TensorProto.FLOAT, None),
        ],
        [
            INFO("on", TensorProto.BOOL, []),
            INFO("a", TensorProto.FLOAT, None),
            INFO("r", TensorProto.FLOAT, None),
        ],
    )
    return node("Loop", [count, "", "x"], list(outputs), body=body)


STEP = node("Sin", ["s"], ["a"])
BY_NUMBER = [node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), node("Add", ["s", "f"], ["a"])]
FROM_ONE = [
    node("Add", ["i", "one"], ["j"]), node("Cast", ["j"], ["f"], to=TensorProto.FLOAT), node("Add", ["s", "f"], ["a"]),
]  # fmt: skip
QUANT = {
    "w": np.random.default_rng(2).integers(-127, 128, (40, 12)).astype("int8"), "zx": np.array(117, "uint8"),
    "zw": np.array(3, "int8"), "none": np.array(0, "int8"), "s": real(0.01),
}  # fmt: skip
SCALES = {
    "w": np.random.default_rng(2).integers(-127, 128, (12, 40)).astype("int8"),
    "z": np.zeros(12, "int8"), "p": np.linspace(0.01, 0.02, 12).astype("float32"),
    "o": np.roll(np.linspace(0.01, 0.02, 12).astype("float32"), 1),
}  # fmt: skip


def per_channel(scales: str) -> list[NodeProto]:
    """A product with weights of one scale a channel."""
    return [
        node("DequantizeLinear", ["w", scales, "z"], ["d"], axis=0), node("Transpose", ["d"], ["t"]),
        node("MatMul", ["x", "t"], ["y"]),
    ]  # fmt: skip


INTEGER = [node("MatMulInteger", ["x", "w", "zx", "zw"], ["y"])]
SATURATED = [
    node("MatMulInteger", ["x", "w", "zx", "zw"], ["v"]), node("Cast", ["v"], ["f"], to=TensorProto.FLOAT),
    node("Clip", ["f", "lo", "hi"], ["g"]), node("Cast", ["g"], ["y"], to=TensorProto.INT32),
]  # fmt: skip
LIMITS = {"lo": real(-32768), "hi": real(32767)}
DYNAMIC = [
    node("DynamicQuantizeLinear", ["x"], ["q", "a", "b"]),
    node("DequantizeLinear", ["q", "a", "b"], ["y"]),
]
SYMMETRIC = [
    node("Abs", ["x"], ["m"]), node("ReduceMax", ["m"], ["t"], keepdims=0), node("Div", ["t", "k"], ["a"]),
    node("QuantizeLinear", ["x", "a", "z"], ["q"]), node("DequantizeLinear", ["q", "a", "z"], ["y"]),
]  # fmt: skip
STORED = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
FLOORED = [
    node("Div", ["x", "s"], ["d"]), node("Floor", ["d"], ["f"]), node("Clip", ["f", "lo", "hi"], ["g"]),
    node("Mul", ["g", "s"], ["y"]),
]  # fmt: skip
IMAGE = {"x": [1, 12, 6, 6]}
PLANES = {"w": noise(20, 12, 3, 3), "flat": np.array([1, -1]), "last": noise(720, 7)}
SAME = node("Identity", ["c"], ["y"])
CONV = node("Conv", ["x", "w"], ["c"], pads=[1] * 4)


def flattened(*, turned: bool) -> list[NodeProto]:
    """A convolution and a product with all it makes, in the order of its memory or with the channels last."""
    moved = (
        [node("Transpose", ["c"], ["m"], perm=[0, 2, 3, 1])] if turned else [node("Identity", ["c"], ["m"])]
    )
    return [CONV, *moved, node("Reshape", ["m", "flat"], ["f"]), node("MatMul", ["f", "last"], ["y"])]


def last_channels(stored: np.ndarray) -> None:
    """Those behind the last whole block of 16."""
    stored[:, 16:] = 0


def last_pixels(stored: np.ndarray) -> None:
    """Those behind the last whole tile of four."""
    stored[..., 4:] += np.float32(0.01)


WRONG: dict[str, Pair] = {
    "branches exchanged": Pair(
        [chosen(TANH, SIGMOID)], [node("Not", ["c"], ["d"]), chosen(TANH, SIGMOID, "d")], FLAG
    ),
    "one branch is off": Pair([chosen(TANH, SIGMOID)], [chosen(OFF_YES, SIGMOID)], FLAG, OFF),
    "the other branch is off": Pair([chosen(TANH, SIGMOID)], [chosen(TANH, OFF_NO)], FLAG, OFF),
    "the branch of one rate is off": Pair(
        [node("Equal", ["n", "rate"], ["c"]), chosen(TANH, SIGMOID)],
        [node("Equal", ["n", "rate"], ["c"]), chosen(OFF_YES, SIGMOID)], COUNT, OFF | {"rate": np.array(16000)},
    ),
    "the branch of another rate is off": Pair(
        [node("Equal", ["n", "rate"], ["c"]), chosen(TANH, SIGMOID)],
        [node("Equal", ["n", "rate"], ["c"]), chosen(TANH, OFF_NO)], COUNT, OFF | {"rate": np.array(16000)},
    ),
    "the branch of large values is off": Pair(
        [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "h"], ["c"]), chosen(TANH, SIGMOID)],
        [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "h"], ["c"]), chosen(OFF_YES, SIGMOID)],
        {"x": [8, 24]}, OFF | {"h": real(50)},
    ),
    "a round too few": Pair(
        [rounds(STEP)], [node("Sub", ["n", "one"], ["m"]), rounds(STEP, count="m")], COUNT, {"one": np.array(1)}
    ),
    "rounds counted from one": Pair([rounds(*BY_NUMBER)], [rounds(*FROM_ONE)], COUNT, {"one": np.array(1)}),
    "rows collected backwards": Pair(
        [rounds(STEP, outputs=("last", "y"))],
        [
            rounds(STEP, outputs=("last", "z")),
            node("Slice", ["z", "end", "far", "axis", "back"], ["y"]),
        ], COUNT,
        {"end": np.array([-1]), "far": np.array([-(2**40)]), "axis": np.array([0]), "back": np.array([-1])},
    ),
    "places found column by column": Pair(
        [node("Greater", ["x", "k"], ["p"]), node("NonZero", ["p"], ["y"])],
        [
            node("Transpose", ["x"], ["t"]), node("Greater", ["t", "k"], ["p"]), node("NonZero", ["p"], ["z"]),
            node("Gather", ["z", "swap"], ["y"], axis=0),
        ], {"x": [8, 24]}, {"k": real(0.2), "swap": np.array([1, 0])}, TensorProto.INT64,
    ),
    "a zero point of weights that is left out": Pair(
        INTEGER, [node("MatMulInteger", ["x", "w", "zx", "none"], ["y"])], BYTES, QUANT, TensorProto.INT32
    ),
    "sums that saturate at 16 bits": Pair(INTEGER, SATURATED, BYTES, QUANT | LIMITS, TensorProto.INT32),
    "scales of the channels beside": Pair(per_channel("p"), per_channel("o"), {"x": [4, 40]}, SCALES),
    "a symmetric grid instead of one from least to most": Pair(
        DYNAMIC, SYMMETRIC, {"x": [8, 24]}, {"k": real(127), "z": np.array(0, "int8")}
    ),
    "rounded down to the grid": Pair(
        STORED, FLOORED, {"x": [8, 24]},
        {"s": real(0.05), "z": np.array(0, "int8"), "lo": real(-128), "hi": real(127)},
    ),
    "flattened with the channels last": Pair(flattened(turned=False), flattened(turned=True), IMAGE, PLANES),
    "channels behind the last block are zero": Pair([CONV, SAME], last_channels, IMAGE, PLANES),
    "pixels behind the last tile are off": Pair([CONV, SAME], last_pixels, IMAGE, PLANES),
    "depth by columns instead of rows": Pair(
        [node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="DCR")],
        [node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], IMAGE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_branch_round_or_layout_is_caught(name: str, tmp_path: Path) -> None:
    pair = WRONG[name]
    same = Pair(pair.nodes, pair.nodes, pair.inputs, pair.constants, pair.output_type)
    assert same.judged(tmp_path) == ""
    assert pair.judged(tmp_path)


def stream() -> ModelProto:
    """A stream with two states of one shape: a slow mean and the frame before."""
    nodes = [
        node("Mul", ["mean_state", "slow"], ["a"]), node("Mul", ["x", "fast"], ["b"]),
        node("Add", ["a", "b"], ["mean_stateN"]), node("Sub", ["x", "last_frame_state"], ["d"]),
        node("Identity", ["x"], ["last_frame_stateN"]), node("Mul", ["d", "mean_state"], ["m"]),
        node("Tanh", ["m"], ["y"]),
    ]  # fmt: skip
    inputs = {name: [1, 16] for name in ("x", "mean_state", "last_frame_state")}
    constants = {"slow": real(0.9), "fast": real(0.1)}
    return model_of(nodes, inputs, ["y", "mean_stateN", "last_frame_stateN"], constants, 18)


Stream = Callable[[Callable[[Arrays], Arrays], Sequence[Arrays], dict[str, str], Arrays], list[Arrays]]


def streamed(folder: Path, run_all: Stream) -> str:
    """Why verification refuses a stream that runs so."""
    model = stream()
    source = load_source(save(model, folder), CompileOptions())
    assert len(source.states) == 2
    steps = steps_of(source, make_inputs(source))
    initial = initial_inputs(source)
    expected = expected_for(source, [Probe("", steps[0] | initial)], 1, BUDGET, steps)
    carried = {state.input: state.output for state in source.states}
    got = run_all(runner_of(model), steps, carried, initial)
    return "; ".join(error.verdict for error in assess_steps(source, expected, got) if not error.ok)


def right(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], carried: dict[str, str], initial: Arrays
) -> list[Arrays]:
    return carry(run, [steps[0] | initial, *steps[1:]], carried)


def forgets(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], _c: dict[str, str], initial: Arrays
) -> list[Arrays]:
    """Every run begins anew."""
    return [run(step | initial) for step in steps]


def exchanged(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], carried: dict[str, str], initial: Arrays
) -> list[Arrays]:
    """Each state gets the other's next value."""
    return right(run, steps, dict(zip(carried, reversed(list(carried.values())), strict=True)), initial)


def begins_with_ones(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], carried: dict[str, str], initial: Arrays
) -> list[Arrays]:
    return right(run, steps, carried, {name: np.ones_like(value) for name, value in initial.items()})


def late(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], carried: dict[str, str], initial: Arrays
) -> list[Arrays]:
    """Every run reads the state before the last, as with two buffers exchanged once too often."""
    outputs: list[Arrays] = []
    for step in steps:
        taken = {name: outputs[-2][made] for name, made in carried.items()} if len(outputs) > 1 else initial
        outputs.append(run(step | taken))
    return outputs


def one_state_kept(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], carried: dict[str, str], initial: Arrays
) -> list[Arrays]:
    """One of the states stays as it began."""
    return right(run, [step | {"mean_state": initial["mean_state"]} for step in steps],
                 {name: made for name, made in carried.items() if name != "mean_state"}, initial)  # fmt: skip


def second_run_off(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], carried: dict[str, str], initial: Arrays
) -> list[Arrays]:
    """Only the second run is wrong, by a hundredth, and what is carried is right."""
    outputs = right(run, steps, carried, initial)
    outputs[1]["y"] = outputs[1]["y"] * np.float32(1.01)
    return outputs


def last_state_off(
    run: Callable[[Arrays], Arrays], steps: Sequence[Arrays], carried: dict[str, str], initial: Arrays
) -> list[Arrays]:
    """One element of a state is a hundredth off after the last run."""
    outputs = right(run, steps, carried, initial)
    changed = outputs[-1]["mean_stateN"].copy()
    changed[0, 5] *= np.float32(1.01)
    outputs[-1]["mean_stateN"] = changed
    return outputs


def test_a_right_stream_is_accepted(tmp_path: Path) -> None:
    assert streamed(tmp_path, right) == ""


@pytest.mark.parametrize(
    "wrong", [forgets, exchanged, begins_with_ones, late, one_state_kept, second_run_off, last_state_off]
)
def test_a_wrong_stream_is_caught(wrong: Stream, tmp_path: Path) -> None:
    assert streamed(tmp_path, wrong)


def at_rate(slow: float) -> ModelProto:
    """A stream whose mean is slower at another rate than 16000."""
    yes = [node("Mul", ["mean_state", "fast"], ["t"])]
    no = [node("Mul", ["mean_state", "slow"], ["e"])]
    nodes = [
        node("Equal", ["n", "rate"], ["c"]), chosen(yes, no), node("Add", ["y", "x"], ["mean_stateN"]),
        node("Tanh", ["mean_stateN"], ["z"]),
    ]  # fmt: skip
    inputs = {"x": [1, 16], "mean_state": [1, 16], "n": (TensorProto.INT64, [])}
    constants = {"slow": real(slow), "fast": real(0.9), "rate": np.array(16000)}
    return model_of(nodes, inputs, ["z", "mean_stateN"], constants, 18)


@pytest.mark.parametrize("given", [16000, 8000])
def test_both_branches_of_a_stream_are_verified(given: int, tmp_path: Path) -> None:
    target, options = detect(), CompileOptions(tune="none", threads=1)
    _, artifact = build(save(at_rate(0.5), tmp_path), tmp_path, options)
    right, wrong = (load_source(save(at_rate(slow), tmp_path), CompileOptions()) for slow in (0.5, 0.51))
    inputs = make_inputs(right) | {"n": np.array(given)}
    how: dict[str, Any] = {"threads": 1, "budget": BUDGET}
    assert len(right.states) == 1
    assert verify(artifact, right, target, inputs, **how).ok
    assert not verify(artifact, wrong, target, inputs, **how).ok
