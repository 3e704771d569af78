"""Inputs beside the plausible ones: zeros, large and subnormal numbers, infinity, NaN, integers at their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.source import Port, SourceModel
from edgec.compiler.verify.demands import Demand, Graph, attribute, flattened
from edgec.compiler.verify.inputs import Arrays, make_inputs
from edgec.compiler.verify.requirements import demands_of

MOST_BYTES = 64 << 20  # of a model's inputs: extremes of larger ones would take longer to write than to run
LARGE, APART = 1000.0, 7
QUANTISED = "QuantizeLinear"
BEYOND_BUDGET = 0.25  # values on rounding edges add up in such inputs; those that wrap change everything
INTEGERS = 1000  # the largest tried where no use tells a range, since it may become a size
# What these operators make of NaN, infinity or a number out of range is open, or falls to the side that rounding tips.
OPEN = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GridSample",
    }
    | {
        "Hardmax",
        "Multinomial",
        "NonMaxSuppression",
        "OneHot",
        "QuantizeLinear",
        "Resize",
        "RoiAlign",
        "MaxRoiPool",
    }
    | {"TopK", "Unique", "Upsample", "DeformConv"}
    | {"Inverse"}  # a singular matrix has none
    | {"LRN"}  # ONNX Runtime's running sum spreads NaN to the channels behind it
)


COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
MOST_CONDITIONS = 4  # sets of inputs that decide otherwise


@dataclass(frozen=True)
class Probe:
    """Inputs to compare on, beside the main ones.

    Attributes:
        name: what they hold, as in `inputs with NaN`.
        inputs: by name.
        open: outputs of which it is open what becomes of them, with the operator (or half precision) that leaves it
            open. They are not compared, but the model must not crash.
        budget: the least error that is accepted, relative to an output's largest value.
    """

    name: str
    inputs: Arrays
    open: Mapping[str, str] = field(default_factory=dict)
    budget: float = 0.0


def probes_for(source: SourceModel, inputs: Arrays, *, half: bool = False) -> list[Probe]:
    """Further inputs for a model: others of the usual range, and extremes made from `inputs`.

    Args:
        source: the model.
        inputs: of the usual range.
        half: the compiled model computes in half precision, whose numbers end at 65504.
    """
    if sum(array.nbytes for array in inputs.values()) > MOST_BYTES or not inputs:
        return []
    demands, left_open = demands_of(source.model), _left_open(source.model)
    halved = {port.name: "half precision" for port in source.outputs}
    found = [Probe("another seed", make_inputs(source, seed=1)), *deciding_otherwise(source, inputs)]
    for name, number, whole in _KINDS:
        made = {
            port.name: _changed(port, inputs[port.name], demands.get(port.name, Demand()), number, whole)
            for port in source.inputs
        }
        if any(not np.array_equal(made[n], inputs[n], equal_nan=made[n].dtype.kind == "f") for n in made):
            unsaid = left_open if name in ("NaN", "infinity", "large numbers") else {}
            if name == "subnormal numbers":  # the scale of such a grid has few bits, or none
                unsaid = {output: op for output, op in left_open.items() if op.startswith("DynamicQuantize")}
            unsaid = halved if half and name == "large numbers" else unsaid
            found.append(Probe(name, made, unsaid))
    if set(left_open.values()) == {QUANTISED}:
        found += _beyond_grid(source, inputs)
    return found


def deciding_otherwise(source: SourceModel, inputs: Arrays) -> list[Probe]:
    """Inputs whose flags are the other way, and whose single numbers are what the model compares them with.

    Such values choose branches: a sample rate that is compared with 16000 hardly gets drawn.
    """
    graph = Graph(source.model)
    flags = {
        name: np.logical_not(array, out=np.empty_like(array))
        for name, array in inputs.items()
        if array.dtype == np.bool_ and array.size == 1
    }
    chosen = [flags] if flags else []
    for node in graph.nodes:
        if node.op_type not in COMPARISONS:
            continue
        for name, other in (tuple(node.input), tuple(reversed(node.input))):
            array, value = inputs.get(name), graph.constant(other)
            if (
                array is None
                or value is None
                or array.size != 1
                or value.size != 1
                or array.dtype.kind not in "iuf"
            ):
                continue
            for number in (value, value + 1):
                made = {name: np.asarray(number, array.dtype).reshape(array.shape)}
                if made not in chosen and not np.array_equal(made[name], array):
                    chosen.append(made)
                    break
    return [
        Probe("conditions that decide otherwise", {**inputs, **made}) for made in chosen[:MOST_CONDITIONS]
    ]


def _beyond_grid(source: SourceModel, inputs: Arrays) -> list[Probe]:
    """Inputs that are quantised at once, with single values far off their grid, which have to saturate."""
    read = {node.input[0] for node in source.model.graph.node if node.op_type == QUANTISED}
    made = dict(inputs)
    for port in source.inputs:
        if port.name in read and inputs[port.name].dtype.kind == "f":
            changed = inputs[port.name].copy().reshape(-1)
            changed[::APART] = _large(changed[::APART])
            made[port.name] = changed.reshape(inputs[port.name].shape)
    same = all(made[name] is inputs[name] for name in inputs)
    return [] if same else [Probe("numbers beyond the grid", made, budget=BEYOND_BUDGET)]


Change = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def _zeros(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.zeros_like(array)


def _large(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(array * array.dtype.type(LARGE))


def _subnormal(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.sign(array) * np.finfo(array.dtype).smallest_subnormal * 100, array.dtype)


def _scattered(*values: float) -> Change:
    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        made = array.copy().reshape(-1)
        for number, value in enumerate(values):
            made[number * 3 :: APART * len(values)] = value
        return made.reshape(array.shape)

    return change


_KINDS: tuple[tuple[str, Change, str], ...] = (
    ("zeros", _zeros, "zero"),
    ("large numbers", _large, "limits"),
    ("subnormal numbers", _subnormal, ""),
    ("infinity", _scattered(np.inf, -np.inf), ""),
    ("NaN", _scattered(np.nan), ""),
)


def _changed(
    port: Port, array: npt.NDArray[Any], demand: Demand, change: Change, whole: str
) -> npt.NDArray[Any]:
    """An input changed as far as its uses allow; indices and sizes stay valid."""
    if demand.make is not None or array.dtype == np.bool_ or "mask" in port.name.lower():
        return array
    if array.dtype.kind == "f":
        limited = demand.low is not None or demand.high is not None or demand.nonzero
        return array if limited and change in (_zeros, _large) else change(array)
    if array.dtype.kind not in "iu" or not whole:
        return array
    limits = np.iinfo(array.dtype)
    free = demand.low is None and demand.high is None
    least = -INTEGERS if free else demand.valid_from if demand.valid_from is not None else 0
    most = INTEGERS if demand.high is None else demand.high
    low, high = max(int(np.ceil(least)), int(limits.min)), min(int(most), int(limits.max))
    if whole == "zero":
        return np.zeros_like(array) if low <= 0 <= high and not demand.nonzero else array
    made = np.asarray(np.where(np.arange(array.size).reshape(array.shape) % 2, low, high), array.dtype)
    return np.where(made == 0, array, made) if demand.nonzero else made


def _left_open(model: ModelProto) -> dict[str, str]:
    """The outputs that depend on an operator that leaves open what becomes of NaN and infinities, with its type."""
    graph, reached = Graph(model), dict[str, str]()
    for node in model.graph.node:
        why = next((reached[name] for name in sorted(free_names(node)) if name in reached), "")
        why = why or next((inner.op_type for inner in flattened([node]) if _is_open(inner, graph)), "")
        if why:
            reached.update(dict.fromkeys(node.output, why))
    return {port.name: reached[port.name] for port in model.graph.output if port.name in reached}


def _is_open(node: Any, graph: Graph) -> bool:  # noqa: ANN401 - NodeProto, whose stub lacks fields
    if node.op_type in OPEN or node.op_type.startswith("QLinear") or node.op_type.endswith("Integer"):
        return True
    if node.op_type == "MaxPool" and len(node.output) > 1:  # where the largest value is
        return True
    if node.op_type in (
        "ScatterElements",
        "ScatterND",
    ):  # ONNX Runtime and the standard's evaluator lose NaN here
        return attribute(node, "reduction", b"none") in (b"max", b"min")
    if node.op_type != "Cast":
        return False
    to = next((a.i for a in node.attribute if a.name == "to"), TensorProto.FLOAT)
    narrow = helper.tensor_dtype_to_np_dtype(to)
    return graph.is_float(node.input[0]) and (
        narrow.kind in "iu" or (narrow.itemsize == 1 and narrow.kind != "b")
    )
