"""From a forest, with its library's pre- and postprocessing, to an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.tree_ensemble import ML_OPSET_KEYED, ML_OPSET_LISTED, to_node
from edgec.compiler.kernels.forests.forest import Floats, Forest, ForestError

INPUT, OUTPUT = "input", "prediction"
OPSET = 18
ZERO = 1e-35  # LightGBM treats smaller values as zero
MAX_FEATURES = 1 << 24


@dataclass
class TreeModel:
    """A gradient boosted or averaged forest as its library predicts with it.

    Attributes:
        forest: the trees.
        transform: from the sums to the prediction, as a name of `TRANSFORMS`.
        scale: what `sigmoid` multiplies its argument with.
        offset: `[targets]`, added to the sums (in the library's margin space).
        squeeze: the prediction is `[rows]`, not `[rows, targets]`.
        zero_missing: features in which zero counts as missing.
        categories: features that hold categories; their values are made whole numbers.
        towards_zero: by truncation, not by rounding down.
        for_library: the model in XGBoost's format, written from what was read of the file.
        feature_names: in the order of the features, where the file names them.
    """

    forest: Forest
    transform: str = "identity"
    scale: float = 1.0
    offset: Floats | None = None
    squeeze: bool = True
    zero_missing: tuple[int, ...] = ()
    categories: tuple[int, ...] = ()
    towards_zero: bool = False
    for_library: Mapping[str, Any] | None = field(default=None, repr=False)
    feature_names: tuple[str, ...] = field(default=(), repr=False)


def check_widths(features: int, targets: int, trees: int) -> None:
    """Check the sizes that a file declares against what it holds.

    Raises:
        ForestError: no features, too many, or more outputs than trees: each output has trees of its own.
    """
    if not 1 <= features <= MAX_FEATURES:
        raise ForestError(f"it declares {features} features; they are 1 to {MAX_FEATURES}")
    if not 1 <= targets <= max(trees, 1):
        raise ForestError(f"it declares {targets} outputs, but has {trees} trees")


class GraphWriter:
    """Writes a chain of ONNX nodes."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.constants: list[TensorProto] = []

    def op(self, op_type: str, *inputs: str | npt.NDArray[np.generic], **attrs: object) -> str:
        """Add a node; arrays become initialisers. Returns the name of its output."""
        names = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        output = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, names, [output], name=output, **attrs))
        return output

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        """Add an initialiser."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _f(value: float) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)


def _argmax(g: GraphWriter, x: str) -> str:
    return g.op("Cast", g.op("ArgMax", x, axis=1, keepdims=1), to=TensorProto.FLOAT)


def _step(g: GraphWriter, x: str) -> str:
    return g.op("Cast", g.op("Greater", x, _f(0)), to=TensorProto.FLOAT)


def _signed_square(g: GraphWriter, x: str) -> str:
    return g.op("Mul", x, g.op("Abs", x))


TRANSFORMS: dict[str, Callable[[GraphWriter, str], str]] = {
    "identity": lambda g, x: x,
    "sigmoid": lambda g, x: g.op("Sigmoid", x),
    "softmax": lambda g, x: g.op("Softmax", x, axis=1),
    "exp": lambda g, x: g.op("Exp", x),
    "argmax": _argmax,
    "step": _step,
    "signed_square": _signed_square,
    "softplus": lambda g, x: g.op("Softplus", x),
}


def to_onnx(model: TreeModel) -> ModelProto:
    """The whole prediction as ONNX: input `[batch, features]` fp32, output as the library returns it."""
    g = GraphWriter()
    features = model.forest.n_features
    x = INPUT
    if model.zero_missing:
        zero = g.op("LessOrEqual", g.op("Abs", x), _f(ZERO))
        zero = g.op("And", zero, _mask(features, model.zero_missing))
        x = g.op("Where", zero, _f(np.nan), x)
    if model.categories:
        cut = g.op("Floor", g.op("Abs", x)) if model.towards_zero else g.op("Floor", x)
        cut = g.op("Mul", g.op("Sign", x), cut) if model.towards_zero else cut
        x = g.op("Where", _mask(features, model.categories), cut, x)
    g.nodes.append(to_node(model.forest, x, "trees_0"))
    y = "trees_0"
    if model.offset is not None and model.offset.any():
        y = g.op("Add", y, model.offset.astype(np.float32))
    if model.scale != 1.0:
        y = g.op("Mul", y, _f(model.scale))
    y = TRANSFORMS[model.transform](g, y)
    shape: list[str | int] = ["batch"]
    if model.squeeze:
        y = g.op("Reshape", y, np.array([-1], np.int64))
    else:
        shape.append(model.forest.n_targets)
    g.nodes.append(helper.make_node("Identity", [y], [OUTPUT], name="prediction"))
    graph = helper.make_graph(
        g.nodes,
        "trees",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
        g.constants,
    )
    ml_opset = ML_OPSET_LISTED if model.forest.members else ML_OPSET_KEYED
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ml_opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="edgec")


def _mask(features: int, chosen: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask = np.zeros((1, features), np.bool_)
    mask[0, list(chosen)] = True
    return mask
