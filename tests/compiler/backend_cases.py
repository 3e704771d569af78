"""The node tests of the `onnx` package as cases for this compiler.

Those tests pass shapes, axes, counts and the like as inputs of the graph. An artifact has static shapes, so here
they become constants of the model, as they are in models that people export; `FROZEN` lists which.
Everything else goes in as it comes, through the whole compiler and the runtime.
"""

from __future__ import annotations

import fnmatch
import functools
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader as loader
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.targets import EdgecError
from tests.compiler.onnx_models import build, save

EXCLUSIONS = Path(__file__).with_name("backend_exclusions.toml")
REDUCTIONS = ("Max", "Min", "Sum", "Mean", "Prod", "LogSumExp", "LogSum", "SumSquare", "L1", "L2")
BF16_RTOL = 2**-6  # two steps of bfloat16, as the onnx package's own runner allows
TOGETHER = 16  # cases in a model
STORED = ("simple", "pytorch-converted", "pytorch-operator")
FROZEN: dict[str, tuple[int, ...]] = {
    **{f"Reduce{kind}": (1,) for kind in REDUCTIONS},
    "AffineGrid": (1,),
    "CastLike": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "Loop": (0, 1),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "MaxUnpool": (2,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
FROZEN_NAMES = frozenset(
    {"axes", "axis", "shape", "repeats", "split", "k", "starts", "ends", "steps", "depth"}
    | {"size", "start", "limit", "delta"}  # of windows, grids and ranges written out as functions
)


@dataclass(frozen=True)
class Case:
    """One node test: its model with parameters frozen, its other inputs, and what it should give.

    A sequence is given and returned as its elements: `s.0`, `s.1` and so on.
    """

    name: str
    operator: str
    model: ModelProto
    inputs: dict[str, np.ndarray]
    expected: list[np.ndarray]
    outputs: tuple[str, ...]  # their names
    rtol: float
    atol: float


@dataclass(frozen=True)
class Outcome:
    """What came of a case: `native`, `fallback`, `refused`, `wrong` or `excluded`, and why."""

    name: str
    operator: str
    result: str
    detail: str = ""


@dataclass(frozen=True)
class StoredTest:
    """A test whose model and data lie in files of the `onnx` package."""

    name: str
    kind: str
    model: ModelProto
    data_sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float


def all_tests() -> list[Any]:
    """The node tests, and the simple models and those converted from PyTorch; the light ones are downloads."""
    tests: list[Any] = list(loader.load_model_tests(kind="node"))
    for kind in STORED:
        for test in loader.load_model_tests(kind=kind):
            if test.model is not None:
                tests.append(test)
                continue
            folder = Path(test.model_dir)
            data = folder / "test_data_set_0"
            sets = [_tensors(data, "input"), _tensors(data, "output")]
            model = onnx.load(folder / "model.onnx")
            tests.append(StoredTest(test.name, kind, model, [(sets[0], sets[1])], test.rtol, test.atol))
    return tests


def _tensors(folder: Path, kind: str) -> list[Any]:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
    return [TensorProto.FromString(file.read_bytes()) for file in files]


def exclusions() -> dict[str, str]:
    """Patterns of test names that cannot be cases here, with the reason."""
    content = tomllib.loads(EXCLUSIONS.read_text(encoding="utf-8"))
    return {pattern: entry["reason"] for entry in content["excluded"] for pattern in entry["tests"]}


@functools.cache
def excluded_types() -> dict[str, str]:
    """Patterns of element types that no artifact takes or returns, with the reason."""
    content = tomllib.loads(EXCLUSIONS.read_text(encoding="utf-8"))
    return {pattern: entry["reason"] for entry in content["excluded_type"] for pattern in entry["types"]}


def excluded(name: str, patterns: dict[str, str]) -> str | None:
    """Why a test is left out, or None."""
    return next((why for pattern, why in patterns.items() if fnmatch.fnmatch(name, pattern)), None)


def make_case(test: Any) -> Case | str:
    """A case of an `onnx` test, or why it cannot be one."""
    model = ModelProto()
    model.CopyFrom(test.model)
    given, expected = (
        _named(values, ports) for values, ports in zip(test.data_sets[0], _ports(model), strict=True)
    )
    if isinstance(given, str) or isinstance(expected, str):
        return EMPTY
    for array in (*given.values(), *expected.values()):
        why = excluded(array.dtype.name, excluded_types())
        if why is not None:
            return why
    values = dict(given)
    for name in _frozen(model, _expanded_operator(test.name)):
        if name in values:
            model.graph.initializer.append(numpy_helper.from_array(values.pop(name), name))
    sequences = {name.rpartition(".")[0] for name in values}
    kept = [v for v in model.graph.input if v.name in values or v.name in sequences]
    kept = [type(v).FromString(v.SerializeToString()) for v in kept]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    _cast_borders(model)
    values = {name: _plain(array) for name, array in values.items()}
    main = [n.op_type for n in test.model.graph.node]
    operator = main[0] if len(main) == 1 else _operator_of(test.name, main)
    operator = f"models: {test.kind}" if test.kind != "node" else operator
    results = [_plain(array) for array in expected.values()]
    halves = any(array.dtype.name == "bfloat16" for array in (*given.values(), *expected.values()))
    rtol = max(test.rtol, BF16_RTOL) if halves else test.rtol
    return Case(test.name, operator, model, values, results, tuple(expected), rtol, test.atol)


EMPTY = "an empty sequence or optional value is no input or output of an artifact"


def _ports(model: ModelProto) -> tuple[list[str], list[str]]:
    return [v.name for v in model.graph.input], [v.name for v in model.graph.output]


def _named(values: Sequence[Any], names: Sequence[str]) -> dict[str, np.ndarray] | str:
    """Arrays by name, those of sequences by number; why not, where one is empty."""
    found = {}
    for value, name in zip(values, names, strict=False):
        array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        if isinstance(array, list) and array and all(isinstance(one, np.ndarray) for one in array):
            found |= {f"{name}.{k}": one for k, one in enumerate(array)}
        elif isinstance(array, np.ndarray | np.generic):
            found[name] = np.asarray(array)
        else:
            return EMPTY
    return found


def _plain(array: np.ndarray) -> np.ndarray:
    """The array, in float32 where numpy itself has no such type."""
    return array if array.dtype.isbuiltin == 1 else array.astype("float32")


def _cast_borders(model: ModelProto) -> None:
    """Take and give float32 (in place) where numpy has no type: what a sensor gives and a program takes.

    A cast stands between such an input and its node, and between a node and such an output.
    """
    graph, renamed = model.graph, {}
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if kind and helper.tensor_dtype_to_np_dtype(kind).isbuiltin != 1:
            renamed[value.name] = kind
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    inside = {name: f"{name}.narrow" for name in renamed}
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = inside.get(name, name)
    first = [
        helper.make_node("Cast", [v.name], [inside[v.name]], to=renamed[v.name])
        for v in graph.input
        if v.name in renamed
    ]
    nodes = [*first, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node)]
    nodes += [
        helper.make_node("Cast", [inside[v.name]], [v.name], to=TensorProto.FLOAT)
        for v in graph.output
        if v.name in renamed
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def _operator_of(name: str, nodes: list[str]) -> str:
    plain = name.removeprefix("test_").replace("_", "")
    fitting = [node for node in nodes if plain.startswith(node.lower())]
    return (
        max(fitting, key=len) if fitting else f"expanded: {plain[:24]}" if "expanded" in name else nodes[-1]
    )


def _expanded_operator(name: str) -> str | None:
    """The operator whose definition a test of an expanded node holds, where some of its inputs are frozen."""
    plain = name.removeprefix("test_").replace("_", "")
    fitting = [operator for operator in FROZEN if plain.startswith(operator.lower())]
    return max(fitting, key=len) if fitting and "expanded" in plain else None


def _frozen(model: ModelProto, expanded: str | None) -> set[str]:
    names = {value.name for value in model.graph.input if value.name in FROZEN_NAMES}
    if expanded is not None:
        inputs = [value.name for value in model.graph.input]
        return names | {inputs[place] for place in FROZEN[expanded] if place < len(inputs)}
    for node in model.graph.node:
        for position in FROZEN.get(node.op_type, ()):
            if position < len(node.input) and node.input[position]:
                names.add(node.input[position])
    return names


def alike(one: Case, other: Case) -> bool:
    """Whether two cases can be parts of one model."""
    opsets = [sorted((o.domain, o.version) for o in case.model.opset_import) for case in (one, other)]
    return opsets[0] == opsets[1] and not one.model.functions and not other.model.functions


def grouped(made: Iterable[Case], size: int) -> list[list[Case]]:
    """Cases in groups of at most `size` that are `alike`."""
    groups: list[list[Case]] = []
    for case in made:
        fitting = (group for group in reversed(groups) if len(group) < size and alike(group[0], case))
        group = next(fitting, None)
        if group is None:
            groups.append([case])
        else:
            group.append(case)
    return groups


# What ONNX Runtime computes of a case (names of values), and its outputs by name; files go to the folder.
Outputs = Callable[[Case, Path], tuple[set[str], dict[str, np.ndarray]]]


def run_together(cases: Sequence[Case], folder: Path, outputs: Outputs | None = None) -> list[Outcome]:
    """The outcomes of cases that are `alike`, compiled side by side in one model; a fifth of the time.

    Those that are not native and right are compiled again alone: in a model, one node may keep others from being
    simplified.

    Args:
        cases: they.
        folder: for files.
        outputs: compiles and runs a case; for this machine's processor without.
    """
    outputs = outputs or _outputs
    whole, inputs = ModelProto(), {}
    whole.CopyFrom(cases[0].model)
    whole.graph.Clear()
    whole.graph.name = "together"
    for number, case in enumerate(cases):
        part = compose.add_prefix(case.model, f"c{number}/")
        for field in ("node", "input", "output", "initializer", "value_info"):
            getattr(whole.graph, field).extend(getattr(part.graph, field))
        inputs |= {f"c{number}/{name}": array for name, array in case.inputs.items()}
    together = Case("", "", whole, inputs, [], (), 0.0, 0.0)
    try:
        fallbacks, got = outputs(together, folder)
    except FAILURES:
        if len(cases) == 1:
            return [run_case(cases[0], folder, outputs)]
        half = len(cases) // 2
        return [*run_together(cases[:half], folder, outputs), *run_together(cases[half:], folder, outputs)]
    told = []
    for number, case in enumerate(cases):
        names = [f"c{number}/{name}" for name in case.outputs]
        native = not any(name.startswith(f"c{number}/") for name in fallbacks)
        right = native and not mismatch(case, [got[name] for name in names])
        told.append(Outcome(case.name, case.operator, "native") if right else run_case(case, folder, outputs))
    return told


def _outputs(case: Case, folder: Path) -> tuple[set[str], dict[str, np.ndarray]]:
    """What ONNX Runtime computes (names of values), and the outputs by name."""
    shapes = {name: array.shape for name, array in case.inputs.items()}
    options = CompileOptions(tune="none", threads=1, input_shapes=shapes, states=())  # each run is a new one
    imported, artifact = build(save(case.model, folder), folder, options)
    with rt.load(artifact, threads=1) as model:
        return {name for segment in imported.segments for name in segment.outputs}, model.run(case.inputs)


FAILURES = (
    EdgecError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError, KeyError
)  # fmt: skip


def run_case(case: Case, folder: Path, outputs: Outputs | None = None) -> Outcome:
    """Compile a case, run it, and compare (arguments as of `run_together`)."""

    def outcome(result: str, detail: str = "") -> Outcome:
        return Outcome(case.name, case.operator, result, detail[:300])

    try:
        fallbacks, got = (outputs or _outputs)(case, folder)
    except EdgecError as error:
        return outcome("refused", str(error).replace(f"{folder / 'model.onnx'}: ", ""))
    except FAILURES as error:
        return outcome("wrong", f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}")
    kind = "fallback" if fallbacks else "native"
    difference = mismatch(case, [got[name] for name in case.outputs])
    return outcome("wrong", f"{kind}: {difference}") if difference else outcome(kind)


def mismatch(case: Case, got: Sequence[np.ndarray]) -> str:
    """How outputs differ from those that the test states; empty where they do not."""
    for value, expected in zip(got, case.expected, strict=True):
        if value.shape != expected.shape or value.dtype != expected.dtype:
            return f"{value.dtype}{value.shape}, not {expected.dtype}{expected.shape}"
        wide = expected.astype("float64")
        # rounding is relative to the largest value that takes part, which sums may cancel
        largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))
        atol = max(case.atol, 1e-6 * largest)
        if not np.allclose(value.astype("float64"), wide, case.rtol, atol, equal_nan=True):
            return "values differ"
    return ""
