"""How much rounding does to a model's outputs, measured by perturbation.

Every value that a node rounds is multiplied by factors of 1 ± a few units in the last place, different ones for each
element along its channels and rows, and the inputs likewise. Two such runs of the reference differ as two right
implementations of the model may differ: little in a well-conditioned model, more where differences of large numbers
matter or where a small change decides (an `ArgMax` of equal values). A compiled model has to agree within a multiple
of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS, open_session
from edgec.compiler.frontends.onnx.shape_inference import infer_shapes
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.reference import NARROW_PRODUCTS, exact_narrow_products, same_results
from edgec.compiler.verify.rounding_inside import NESTED, POOL, PREFIX, Pools

UNITS = 4  # in the last place: the largest perturbation of a value
MOST_FACTORS = 1 << 16  # of one value; further axes share their factors
SEED = 20
MICROSOFT = "com.microsoft"
QUANTISATIONS = frozenset({"DequantizeLinear", "QuantizeLinear"})
SIXTEEN_BITS = 21  # the operator set from which the standard's quantisations take them
Factor: TypeAlias = tuple[tuple[int, ...], int, bool]  # shape, element type, and whether it is added
_SPACING = {TensorProto.FLOAT: 2.0**-23, TensorProto.FLOAT16: 2.0**-10, TensorProto.DOUBLE: 2.0**-52}
# Operators whose results are values of their operands, or whole numbers: nothing is rounded.
EXACT = frozenset(
    {
        "Abs",
        "And",
        "ArgMax",
        "ArgMin",
        "Cast",
        "CastLike",
        "Ceil",
        "Clip",
        "Compress",
        "Concat",
        "ConcatFromSequence",
    }
    | {
        "Constant",
        "ConstantOfShape",
        "DepthToSpace",
        "Dropout",
        "Equal",
        "Expand",
        "EyeLike",
        "Flatten",
        "Floor",
    }
    | {
        "Gather",
        "GatherElements",
        "GatherND",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "If",
        "IsInf",
        "IsNaN",
    }
    | {
        "Less",
        "LessOrEqual",
        "Loop",
        "Max",
        "MaxPool",
        "Min",
        "Neg",
        "NonMaxSuppression",
        "NonZero",
        "Not",
        "OneHot",
    }
    | {"Or", "Pad", "QuantizeLinear", "Range", "ReduceMax", "ReduceMin", "Relu", "Reshape", "ReverseSequence"}
    | {
        "Round",
        "Scan",
        "Scatter",
        "ScatterElements",
        "ScatterND",
        "SequenceAt",
        "Shape",
        "Sign",
        "Size",
        "Slice",
    }
    | {"SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unique"}
    | {"Unsqueeze", "Where", "Xor"}
)
# Functions whose implementations are right within some units of 1, however small the result is.
BOUNDED = frozenset({"Erf", "Gelu", "GRU", "LSTM", "RNN", "Sigmoid", "Tanh"})
# Every result has the error of the largest one. Lengths that are no powers of two ONNX Runtime computes by a
# convolution in single precision: of 400 points it was off by 5e-6 of the largest (root mean square), of 256 by 9e-8.
TRANSFORMS = frozenset({"DFT", "STFT"})
CONVOLVED = 48.0  # times the error of a power of two


def perturbed_runs(source: SourceModel, inputs: Arrays, threads: int = 1) -> list[Arrays]:
    """The outputs of two runs with perturbed values; empty if ONNX Runtime does not run the model.

    Args:
        source: the model.
        inputs: what it runs on.
        threads: of ONNX Runtime.
    """
    model, factors = _with_factors(_at_sizes(source.model, inputs))
    names = [port.name for port in source.outputs]
    runs: list[Arrays] = []
    threads = same_results(model, threads)
    try:
        session = open_session(exact_narrow_products(model), threads=threads, settings=(NARROW_PRODUCTS,))
        for sign in (1, -1):  # in opposite directions: two draws might agree by chance
            rng = np.random.default_rng(SEED)
            given = {**perturbed(inputs, rng, sign), **_drawn(factors, rng, sign)}
            runs.append(dict(zip(names, session.run(names, given), strict=True)))
    except ORT_ERRORS:
        return []
    return runs


def _at_sizes(model: ModelProto, inputs: Arrays) -> ModelProto:
    """The model with the sizes of these inputs in place of symbolic ones: factors need the shapes of values."""
    if all(
        dim.HasField("dim_value") for value in model.graph.input for dim in value.type.tensor_type.shape.dim
    ):
        return model
    static = ModelProto()
    static.CopyFrom(model)
    for value in static.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name].shape, strict=True):
            dim.dim_value = size
    for value in static.graph.output:
        value.type.tensor_type.ClearField("shape")
    del static.graph.value_info[:]
    return infer_shapes(static)


def perturbed(inputs: Arrays, rng: np.random.Generator, sign: int = 1) -> Arrays:
    """The inputs with real numbers changed by some units in the last place; infinities and NaN stay."""
    made: Arrays = {}
    for name, array in inputs.items():
        if array.dtype.kind != "f":
            made[name] = array
            continue
        units = sign * _units(rng, array.shape)
        real: npt.NDArray[Any] = array
        factors = 1 + units * float(np.finfo(str(array.dtype)).eps)
        made[name] = np.asarray(real * factors, array.dtype)
    return made


def _of_the_standard(source: ModelProto) -> ModelProto:
    """A copy whose quantisations are the standard's: shapes behind those of com.microsoft are not inferred."""
    model = ModelProto()
    model.CopyFrom(source)
    own = [node for node in model.graph.node if node.op_type in QUANTISATIONS and node.domain == MICROSOFT]
    if not own or _opset(model) < SIXTEEN_BITS:
        return model
    for node in own:
        node.domain = ""
    return infer_shapes(model)


def _with_factors(source: ModelProto) -> tuple[ModelProto, dict[str, Factor]]:
    """The model with a factor, fed as an input, behind every node that rounds; what each factor is."""
    model = _of_the_standard(source)
    graph = model.graph
    typed = {value.name: value for value in (*graph.value_info, *graph.output)}
    results = {value.name for value in graph.output}
    powers = {tensor.name for tensor in graph.initializer if _holds_powers(tensor)}
    read = {name for node in graph.node for name in node.input}
    factors: dict[str, Factor] = {}
    pools = Pools(
        _opset(model), lambda n: n.op_type in EXACT or _scales_by_power(n, powers), BOUNDED, _SPACING
    )
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type in NESTED:
            pools.perturb_inside(node)
            continue
        if node.op_type in EXACT or _scales_by_power(node, powers):
            continue
        for position, name in enumerate(node.output):
            value = typed.get(name)
            if not name or value is None or (name not in read and name not in results):
                continue
            kind, shape = value.type.tensor_type.elem_type, _factor_shape(value)
            if shape is None:
                nodes += pools.changed(node, position, value)
            if kind not in _SPACING or shape is None:
                continue
            raw, factor = f"{PREFIX}raw_{name}", f"{PREFIX}{len(factors)}"
            node.output[position] = raw
            added = node.op_type in BOUNDED | TRANSFORMS
            change = factor
            if node.op_type in TRANSFORMS:
                change = f"{factor}_change"
                nodes += _transform_error(value, raw, factor, change)
            nodes.append(helper.make_node("Add" if added else "Mul", [raw, change], [name]))
            factors[factor] = (shape, kind, added)
    factors |= {name: ((POOL,), *what) for name, what in pools.used.items()}
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for name, (shape, kind, _) in factors.items():
        graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return model, factors


def _opset(model: ModelProto) -> int:
    return next((one.version for one in model.opset_import if not one.domain), 1)


def _transform_error(value: ValueInfoProto, raw: str, factor: str, made: str) -> list[NodeProto]:
    """The nodes that make a factor the error of a Fourier transform: relative to its largest result."""
    bins = value.type.tensor_type.shape.dim[-2].dim_value  # of one side one more than half the length
    even = bins & (bins - 1) == 0 or (bins - 1) & (bins - 2) == 0
    times = helper.make_tensor("", value.type.tensor_type.elem_type, [], [1.0 if even else CONVOLVED])
    size, most, scale, grown = (f"{made}_{part}" for part in ("size", "most", "scale", "grown"))
    return [
        helper.make_node("Abs", [raw], [size]),
        helper.make_node("ReduceMax", [size], [most]),
        helper.make_node("Constant", [], [scale], value=times),
        helper.make_node("Mul", [most, scale], [grown]),
        helper.make_node("Mul", [factor, grown], [made]),
    ]


def _holds_powers(tensor: TensorProto) -> bool:
    """Whether a small constant holds powers of two only."""
    if tensor.data_type not in _SPACING or math.prod(tensor.dims) > MOST_FACTORS or tensor.external_data:
        return False
    return bool((np.abs(np.frexp(numpy_helper.to_array(tensor))[0]) == 0.5).all())


def _scales_by_power(node: NodeProto, powers: Set[str]) -> bool:
    """Whether a node multiplies or divides by powers of two, which rounds nothing."""
    return (node.op_type == "Mul" and not powers.isdisjoint(node.input)) or (
        node.op_type == "Div" and node.input[1] in powers
    )


def _factor_shape(value: ValueInfoProto) -> tuple[int, ...] | None:
    """The shape of a value's factors: its own, with axes that share them until there are few enough."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    shape = [dim.dim_value for dim in tensor.shape.dim]
    for axis in (0, *range(len(shape) - 2, -1, -1)):  # products run along the last axis or the channels
        if math.prod(shape) <= MOST_FACTORS:
            break
        if axis != 1 or len(shape) < 4:
            shape[axis] = 1
    return tuple(shape) if math.prod(shape) <= POOL else None


def _drawn(factors: Mapping[str, Factor], rng: np.random.Generator, sign: int) -> dict[str, Any]:
    """Factors from one pool of random numbers, each value from another place of it."""
    pool = sign * _units(rng, (2 * POOL,))
    pools: dict[tuple[int, bool], npt.NDArray[Any]] = {}
    made: dict[str, Any] = {}
    for name, (shape, kind, added) in factors.items():
        if (kind, added) not in pools:
            pools[kind, added] = _pool_of(pool, kind, added)
        begin = int(rng.integers(0, POOL))
        made[name] = pools[kind, added][begin : begin + math.prod(shape)].reshape(shape)
    return made


def _pool_of(units: npt.NDArray[np.int64], kind: int, added: bool) -> npt.NDArray[Any]:
    changes = units * _SPACING[kind]
    return np.asarray(changes / 2 if added else 1 + changes, helper.tensor_dtype_to_np_dtype(kind))


def _units(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Units in the last place, up or down but never none."""
    return np.asarray(rng.integers(1, UNITS + 1, shape) * rng.choice((-1, 1), shape))
