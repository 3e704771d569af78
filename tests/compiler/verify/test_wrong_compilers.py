"""Verification beside compilers that are wrong in one respect, and beside right ones of models that amplify rounding.

Each pair is a model and what a compiler might make of it: other attributes, other operands, or another store of the
outputs. It runs in ONNX Runtime in place of the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.helper import make_node as node

from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from tests.compiler.small_models import model_of, save
from tests.compiler.verify.test_mutations import Arrays, runner_of, verdict

Store = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Pair:
    """A model and what became of it.

    Attributes:
        nodes: of the model; the last makes `y`.
        made: the nodes in their place, or a change to the output in place.
        inputs: shapes by name.
        constants: of both.
        output_type: of `y`.
    """

    nodes: Sequence[NodeProto]
    made: Sequence[NodeProto] | Store
    inputs: dict[str, Any] = field(default_factory=lambda: {"x": [8, 24]})
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    output_type: int = TensorProto.FLOAT

    def model(self, nodes: Sequence[NodeProto]) -> ModelProto:
        return model_of(nodes, self.inputs, ["y"], self.constants, 18, output_type=self.output_type)

    def judged(self, folder: Path) -> str:
        """Why verification refuses what was made; empty if it accepts it."""
        source = load_source(save(self.model(self.nodes), folder), CompileOptions())
        if not callable(self.made):
            return verdict(source, runner_of(self.model(self.made)))
        run, change = runner_of(self.model(self.nodes)), self.made

        def stored(inputs: Arrays) -> Arrays:
            made = np.array(run(inputs)["y"])
            change(made)
            return {"y": made}

        return verdict(source, stored)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype("float32")


def real(*values: float) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], "float32")


def both(kind: str, right: dict[str, Any], wrong: dict[str, Any], *operands: str, **more: Any) -> Pair:
    """One node with two sets of attributes."""
    names = ["x", *operands]
    return Pair([node(kind, names, ["y"], **right)], [node(kind, names, ["y"], **wrong)], **more)


IMAGE = {"x": [1, 8, 12, 12]}
SQUARE = {"x": [16, 16]}
WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
WHOLE = {"x": (TensorProto.INT32, [60]), "z": (TensorProto.INT32, [60])}
FILTERS = {"w": noise(8, 8, 3, 3)}
GROUPED = {"w": noise(8, 4, 3, 3)}
STEPS = {"x": [6, 1, 8]}
GATES = {"w": noise(1, 12, 8), "r": noise(1, 12, 4), "b": noise(1, 24)}
RESIZED = {"roi": np.zeros(0, "float32"), "k": real(1, 1, 2, 2)}
HALVES = [node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "half"], ["h"])]
TIES = {"half": real(0.5), "small": np.array(3, "int32")}
COARSE = [node("Mul", ["x", "k"], ["m"]), node("Round", ["m"], ["h"])]
GELU = [
    node("Mul", ["x", "c"], ["s"]), node("Erf", ["s"], ["e"]), node("Add", ["e", "one"], ["p"]),
    node("Mul", ["p", "half"], ["q"]), node("Mul", ["x", "q"], ["y"]),
]  # fmt: skip
GELU_BY_SIGMOID = [
    node("Mul", ["x", "k"], ["s"]), node("Sigmoid", ["s"], ["q"]), node("Mul", ["x", "q"], ["y"]),
]  # fmt: skip
NAIVE_SOFTMAX = [
    node("Exp", ["x"], ["e"]), node("ReduceSum", ["e", "last"], ["t"]), node("Div", ["e", "t"], ["y"]),
]  # fmt: skip
TO_INTEGERS = [node("QuantizeLinear", ["x", "s", "zero"], ["y"])]
WRAPPED = [
    node("Div", ["x", "s"], ["d"]), node("Round", ["d"], ["n"]), node("Cast", ["n"], ["wide"], to=TensorProto.INT32),
    node("Cast", ["wide"], ["y"], to=TensorProto.INT8),
]  # fmt: skip


def last_row(stored: np.ndarray) -> None:
    stored[-1] = 0


def tail(stored: np.ndarray) -> None:
    """The lanes behind the last whole vector of 16, a thousandth off."""
    stored[..., 16:] *= np.float32(1.001)


def every_seventh(stored: np.ndarray) -> None:
    flat = stored.reshape(-1)
    flat[6::7] += np.float32(0.002) * np.abs(flat[np.isfinite(flat)]).max()


RELU = [node("Relu", ["x"], ["y"])]
TANH = [node("Tanh", ["x"], ["y"])]

WRONG: dict[str, Pair] = {
    "the last row is not computed": Pair(TANH, last_row),
    "the lanes of the tail are a thousandth off": Pair(TANH, tail),
    "every seventh value is off": Pair(TANH, every_seventh),
    "a limit is a hundredth off": Pair(
        [node("Clip", ["x", "a", "b"], ["y"])], [node("Clip", ["x", "a", "c"], ["y"])],
        constants={"a": real(-0.5), "b": real(0.5), "c": real(0.505)},
    ),
    "another slope": both("LeakyRelu", {"alpha": 0.01}, {"alpha": 0.0102}),
    "operands exchanged": Pair(
        [node("Sub", ["x", "c"], ["y"])], [node("Sub", ["c", "x"], ["y"])], constants={"c": noise(8, 24)}
    ),
    "parts joined in another order": Pair(
        [node("Concat", ["x", "t"], ["y"], axis=0)], [node("Concat", ["t", "x"], ["y"], axis=0)], SQUARE,
        {"t": noise(16, 16)},
    ),
    "not transposed": both("Transpose", {"perm": [1, 0]}, {"perm": [0, 1]}, inputs=SQUARE),
    "summed along the other axis": Pair(
        [node("ReduceSum", ["x", "one"], ["y"], keepdims=0)], [node("ReduceSum", ["x", "none"], ["y"], keepdims=0)],
        SQUARE, {"one": np.array([1]), "none": np.array([0])},
    ),
    "a border reflected instead of repeated": both(
        "Pad", {"mode": "edge"}, {"mode": "reflect"}, "p", constants={"p": np.array([0, 1, 0, 1])}
    ),
    "padding counted in an average": both(
        "AveragePool", WINDOW, {**WINDOW, "count_include_pad": 1}, inputs=IMAGE
    ),
    "pixels at other places": both(
        "Resize", {"mode": "linear"}, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        "roi", "k", inputs=IMAGE, constants=RESIZED,
    ),
    "taps that are too near": both(
        "Conv", {"dilations": [2, 2], "pads": [2] * 4}, {"dilations": [1, 1], "pads": [1] * 4}, "w",
        inputs=IMAGE, constants=FILTERS,
    ),
    "groups exchanged": Pair(
        [node("Conv", ["x", "w"], ["y"], group=2, pads=[1] * 4)],
        [
            node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), node("Concat", ["b", "a"], ["o"], axis=1),
            node("Conv", ["o", "w"], ["y"], group=2, pads=[1] * 4),
        ],
        IMAGE, GROUPED,
    ),
    "a column of zeros on the other side": both(
        "ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 0, 0]}, {"strides": [2, 2], "pads": [0, 0, 1, 1]}, "w",
        inputs=IMAGE, constants=FILTERS,
    ),
    "a gate before the product instead of after it": both(
        "GRU", {"hidden_size": 4}, {"hidden_size": 4, "linear_before_reset": 1}, "w", "r", "b",
        inputs=STEPS, constants=GATES,
    ),
    "the last of equal maxima": Pair(
        [*COARSE, node("ArgMax", ["h"], ["y"], axis=1)],
        [*COARSE, node("ArgMax", ["h"], ["y"], axis=1, select_last_index=1)],
        constants={"k": real(1.0)}, output_type=TensorProto.INT64,
    ),
    "sums that include their own element": both(
        "CumSum", {"exclusive": 1}, {"exclusive": 0}, "one", constants={"one": np.array(1)}
    ),
    "a coarse Gelu": Pair(
        GELU, GELU_BY_SIGMOID,
        constants={"c": real(2**-0.5), "one": real(1), "half": real(0.5), "k": real(1.702)},
    ),
    "a softmax that overflows": Pair(
        [node("Softmax", ["x"], ["y"], axis=-1)], NAIVE_SOFTMAX, constants={"last": np.array([-1])}
    ),
    "integers that wrap": Pair(
        TO_INTEGERS, WRAPPED, constants={"s": real(0.005), "zero": np.array(0, "int8")}, output_type=TensorProto.INT8
    ),
    "halves rounded up": Pair(
        [*HALVES, node("Round", ["h"], ["y"])],
        [*HALVES, node("Add", ["h", "half"], ["u"]), node("Floor", ["u"], ["y"])],
        {"x": (TensorProto.INT32, [60])}, TIES,
    ),
    "rounded instead of cut off": Pair(
        [*HALVES, node("Cast", ["h"], ["y"], to=TensorProto.INT32)],
        [*HALVES, node("Ceil", ["h"], ["u"]), node("Cast", ["u"], ["y"], to=TensorProto.INT32)],
        {"x": (TensorProto.INT32, [60])}, TIES, TensorProto.INT32,
    ),
    "less instead of less or equal": Pair(
        [node("LessOrEqual", ["x", "z"], ["y"])], [node("Less", ["x", "z"], ["y"])], WHOLE,
        output_type=TensorProto.BOOL,
    ),
    "remainders with the sign of the dividend": Pair(
        [node("Mod", ["x", "small"], ["y"])], [node("Mod", ["x", "small"], ["y"], fmod=1)],
        {"x": (TensorProto.INT32, [60])}, TIES, TensorProto.INT32,
    ),
    "NaN lost in a maximum": Pair(RELU, lambda stored: np.nan_to_num(stored, copy=False, posinf=np.inf)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_compiler_is_caught(name: str, tmp_path: Path) -> None:
    pair = WRONG[name]
    if not callable(pair.made):
        same = Pair(pair.nodes, pair.nodes, pair.inputs, pair.constants, pair.output_type)
        assert same.judged(tmp_path) == ""
    assert pair.judged(tmp_path)


LONG = {"x": [4, 256]}
LAST = {"last": np.array([-1])}
HALF = {"a": np.arange(128), "b": np.arange(128, 256)}
SPLIT_PRODUCT = [
    node("Gather", ["x", "a"], ["xa"], axis=1), node("Gather", ["x", "b"], ["xb"], axis=1),
    node("Gather", ["w", "a"], ["wa"], axis=0), node("Gather", ["w", "b"], ["wb"], axis=0),
    node("MatMul", ["xb", "wb"], ["p"]), node("MatMul", ["xa", "wa"], ["q"]), node("Add", ["p", "q"], ["made"]),
]  # fmt: skip


def after_product(*rest: NodeProto, **constants: np.ndarray) -> Pair:
    """A product, summed in two halves by the other compiler, and what amplifies its rounding: from `made` to `y`."""
    whole = [node("MatMul", ["x", "w"], ["made"]), *rest]
    return Pair(whole, [*SPLIT_PRODUCT, *rest], LONG, {"w": noise(256, 32), **HALF, **LAST, **constants})


RIGHT: dict[str, Pair] = {
    "the exponential of large sums": after_product(node("Exp", ["made"], ["y"])),
    "a sharp softmax": after_product(
        node("Mul", ["made", "k"], ["m"]), node("Softmax", ["m"], ["y"], axis=-1), k=real(20)
    ),
    "the sine of large numbers": after_product(
        node("Mul", ["made", "k"], ["m"]), node("Sin", ["m"], ["y"]), k=real(300)
    ),
    "a small difference": after_product(
        node("Add", ["made", "k"], ["m"]), node("Sub", ["m", "k"], ["y"]), k=real(3000)
    ),
    "a seventh power": after_product(node("Pow", ["made", "k"], ["y"]), k=real(7)),
    "a logarithm near 1": after_product(
        node("Mul", ["made", "k"], ["m"]),
        node("Add", ["m", "one"], ["o"]),
        node("Log", ["o"], ["y"]),
        k=real(1e-4),
        one=real(1),
    ),
    "a variance far from zero": after_product(
        node("Add", ["made", "k"], ["m"]),
        node("LayerNormalization", ["m", "g"], ["y"], axis=-1),
        k=real(2000),
        g=np.ones(32, "float32"),
    ),
    "a quotient of small differences": after_product(
        node("Abs", ["made"], ["m"]),
        node("Add", ["m", "k"], ["n"]),
        node("Reciprocal", ["n"], ["y"]),
        k=real(1e-3),
    ),
    "a sum of alternating signs": after_product(
        node("Mul", ["made", "k"], ["m"]),
        node("ReduceSum", ["m", "last"], ["y"]),
        k=np.tile(real(1000, -1000), 16),
    ),
    "a norm of little": after_product(
        node("Sub", ["made", "k"], ["m"]),
        node("ReduceL2", ["m", "last"], ["l"]),
        node("Div", ["made", "l"], ["y"]),
        k=real(0.5),
    ),
    "squashed again and again": after_product(
        node("Tanh", ["made"], ["t0"]),
        *[
            n
            for i in range(12)
            for n in (node("Mul", [f"t{i}", "k"], [f"m{i}"]), node("Sin", [f"m{i}"], [f"t{i + 1}"]))
        ],
        node("Identity", ["t12"], ["y"]),
        k=real(2.5),
    ),
}


def spectrum(floor: float) -> Pair:
    """The logarithm of a power spectrum of 400 points; the other compiler makes it a convolution with waves."""
    points, bins = np.arange(400), np.arange(201)[:, None]
    window = np.hanning(400)
    waves = np.concatenate([f(2 * np.pi * bins * points / 400) * window for f in (np.cos, np.sin)])[:, None]
    constants = {
        "window": window.astype("float32"), "waves": waves.astype("float32"), "step": np.array(160),
        "one": np.array([1]), "floor": real(floor), **LAST,
    }  # fmt: skip
    nodes = [
        node("STFT", ["x", "step", "window"], ["s"]), node("ReduceSumSquare", ["s", "last"], ["p"], keepdims=0),
        node("Add", ["p", "floor"], ["f"]), node("Log", ["f"], ["y"]),
    ]  # fmt: skip
    made = [
        node("Unsqueeze", ["x", "one"], ["u"]), node("Conv", ["u", "waves"], ["c"], strides=[160]),
        node("Mul", ["c", "c"], ["q"]), node("Split", ["q"], ["r", "i"], axis=1, num_outputs=2),
        node("Add", ["r", "i"], ["p"]), node("Add", ["p", "floor"], ["f"]),
        node("Log", ["f"], ["l"]), node("Transpose", ["l"], ["y"], perm=[0, 2, 1]),
    ]  # fmt: skip
    return Pair(nodes, made, {"x": [1, 16000]}, constants)


def within(node_of: str) -> Pair:
    """A small difference of a product, computed in a branch or in each round of a loop."""
    steps = [node("Add", ["made", "k"], ["m"]), node("Sub", ["m", "k"], ["d"])]
    result = [helper.make_tensor_value_info("d", TensorProto.FLOAT, None)]
    if node_of == "If":
        other = helper.make_graph([node("Neg", ["made"], ["d"])], "no", [], result)
        last = [
            node("ReduceMax", ["x"], ["t"], keepdims=0), node("Greater", ["t", "none"], ["c"]),
            node("If", ["c"], ["y"], then_branch=helper.make_graph(steps, "yes", [], result), else_branch=other),
        ]  # fmt: skip
        return after_product(*last, k=real(3000), none=real(0))
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    going = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    state = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), *steps], "b", [number, going[0], state], [going[1], *result]
    )
    count = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"])]
    loop = [node("Identity", ["made"], ["first"]), node("Loop", ["n", "", "first"], ["y"], body=body)]
    return after_product(*count, *loop, k=real(3000), zero=np.array(0))


RIGHT["the logarithm of a spectrum"] = spectrum(1)
RIGHT["the logarithm of a spectrum without a floor"] = spectrum(0)
RIGHT["a small difference in a branch"] = within("If")
RIGHT["a small difference in a loop"] = within("Loop")


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_compiler_of_a_sensitive_model_is_accepted(name: str, tmp_path: Path) -> None:
    assert RIGHT[name].judged(tmp_path) == ""
