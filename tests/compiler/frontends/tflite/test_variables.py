"""Resource variables of TensorFlow Lite: what they become, and sessions beside LiteRT run by run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import edgec.runtime as rt
from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.load import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect
from tests.compiler.frontends.tflite.models import Cases, Graph

F32 = np.float32
QUICK = CompileOptions(tune="none", threads=1)


def handle(graph: Graph, name: str, container: str = "") -> int:
    options = schema.VarHandleOptionsT()
    options.sharedName, options.container = name, container
    return graph.op("VAR_HANDLE", [], [graph.tensor([], "resource")], options, returned=False)


def read(graph: Graph, of: int, shape: list[int], dtype: str = "float32", **grid: Any) -> int:
    made = [graph.tensor(shape, dtype, **grid)]
    return graph.op("READ_VARIABLE", [of], made, schema.ReadVariableOptionsT(), returned=False)


def assign(graph: Graph, of: int, value: int) -> None:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = graph.model.code("ASSIGN_VARIABLE", 1), [of, value], []
    made.builtinOptionsType = schema.BuiltinOptions.AssignVariableOptions
    made.builtinOptions = schema.AssignVariableOptionsT()
    graph.operators.append(made)


def once(graph: Graph, number: int) -> None:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = graph.model.code("CALL_ONCE", 1), [], []
    made.builtinOptionsType = schema.BuiltinOptions.CallOnceOptions
    made.builtinOptions = schema.CallOnceOptionsT()
    made.builtinOptions.initSubgraphIndex = number
    graph.operators.append(made)


def concat(axis: int) -> Any:
    options = schema.ConcatenationOptionsT()
    options.axis = axis
    return options


def ring(cases: Cases, of: int, x: int, shape: tuple[int, int], dtype: str, **grid: Any) -> int:
    """Push a row into a variable that holds the last rows; returns all with the new one."""
    rows, width = shape
    before = read(cases, of, [rows, width], dtype, **grid)
    whole = cases.op(
        "CONCATENATION", [before, x], [cases.tensor([rows + 1, width], dtype, **grid)], concat(0), returned=False
    )  # fmt: skip
    places = [cases.constant(np.array(v, np.int32)) for v in ([1, 0], [rows + 1, width], [1, 1])]
    kept = cases.op(
        "STRIDED_SLICE", [whole, *places], [cases.tensor([rows, width], dtype, **grid)],
        schema.StridedSliceOptionsT(), returned=False,
    )  # fmt: skip
    assign(cases, of, kept)
    return whole


def streaming() -> Cases:
    """Rings of reals and of int8, a counter, a constant variable, and one that is written before it is read."""
    cases, grid = Cases(), {"scale": 0.5, "zero": -3}
    number, begin = cases.graph()
    once(cases, number)
    x = cases.input(np.zeros((1, 4), F32))
    for name, value in {
        "rows": np.linspace(-1, 1, 12, dtype=F32).reshape(3, 4),
        "weight": np.full((1, 4), 3, F32),
        "scratch": np.zeros((1, 4), F32),
    }.items():
        assign(begin, handle(begin, name), begin.constant(value))
    assign(begin, handle(begin, "stored", "bank"), begin.constant(np.full((2, 4), -3, np.int8), **grid))
    # a value that the graph of the beginning computes
    two = begin.constant(np.array([2.0], F32))
    four = begin.op("MUL", [two, two], [begin.tensor([1])], schema.MulOptionsT(), returned=False)
    assign(begin, handle(begin, "count"), four)

    rows = ring(cases, handle(cases, "rows"), x, (3, 4), "float32")
    axis = cases.constant(np.array([0], np.int32))
    mean = cases.op("MEAN", [rows, axis], [cases.tensor([4])], schema.ReducerOptionsT(), returned=False)
    weight = read(cases, handle(cases, "weight"), [1, 4])
    cases.op("MUL", [mean, weight], [cases.tensor([1, 4])], schema.MulOptionsT())

    count = handle(cases, "count")
    one = cases.constant(np.array([1.0], F32))
    more = cases.op(
        "ADD", [read(cases, count, [1]), one], [cases.tensor([1])], schema.AddOptionsT(), returned=False
    )
    assign(cases, count, more)
    cases.op("MUL", [read(cases, count, [1]), x], [cases.tensor([1, 4])], schema.MulOptionsT())

    scratch = handle(cases, "scratch")
    assign(cases, scratch, x)
    cases.op("ADD", [read(cases, scratch, [1, 4]), x], [cases.tensor([1, 4])], schema.AddOptionsT())

    rounded = cases.op(
        "QUANTIZE", [x], [cases.tensor([1, 4], "int8", **grid)], schema.QuantizeOptionsT(), returned=False
    )
    cases.outputs.append(ring(cases, handle(cases, "stored", "bank"), rounded, (2, 4), "int8", **grid))
    return cases


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streaming().save(tmp_path_factory.mktemp("variables"), shaped=False)


def test_what_is_carried_is_a_state_and_nothing_else(path: Path) -> None:
    source = load_source(path, CompileOptions())
    found = {state.input: state for state in source.states}
    assert set(found) == {"rows", "count", "bank/stored"}, (
        "neither constants nor what is written before it is read"
    )
    assert found["count"].initial is not None
    assert found["count"].initial.tolist() == [4.0]
    assert {port.name: port.dtype for port in source.inputs}["bank/stored"] == "int8"
    plain = load_source(path, CompileOptions(states=()))
    assert not plain.states
    assert {"rows", "count", "bank/stored"} < {port.name for port in plain.inputs}


def test_a_session_is_litert_run_by_run(path: Path, tmp_path: Path) -> None:
    result = compile_model(path, detect(), QUICK, output=tmp_path / "variables.edge")
    assert result.evidence["steps"] == 8
    assert result.evidence["reference"].startswith("LiteRT")
    interpreter = Interpreter(model_content=path.read_bytes())
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    rng = np.random.default_rng(0)
    with rt.load(result.artifact, threads=1) as model:
        session = model.session()
        (spec,) = session.inputs
        for _ in range(12):
            x = rng.standard_normal((1, 4)).astype(F32) * 8
            interpreter.set_tensor(given["index"], x)
            interpreter.invoke()
            outputs = session.run({spec.name: x})
            assert len(outputs) == 4
            for detail in interpreter.get_output_details():
                expected = interpreter.get_tensor(detail["index"])
                np.testing.assert_allclose(
                    outputs[detail["name"]], expected, rtol=1e-5, atol=1e-5, err_msg=detail["name"]
                )


def test_a_variable_without_a_beginning_is_refused(tmp_path: Path) -> None:
    cases = Cases()
    x = cases.input(np.zeros((1, 4), F32))
    empty = handle(cases, "empty")
    cases.op("ADD", [read(cases, empty, [1, 4]), x], [cases.tensor([1, 4])], schema.AddOptionsT())
    assign(cases, empty, x)
    with pytest.raises(UnsupportedModel, match="variable 'empty' is read before anything is assigned to it"):
        load_source(cases.save(tmp_path, shaped=False), CompileOptions())


def test_an_input_that_is_no_handle_is_refused(tmp_path: Path) -> None:
    cases = Cases()
    x = cases.input(np.zeros((1, 4), F32))
    cases.op("READ_VARIABLE", [x], [cases.tensor([1, 4])], schema.ReadVariableOptionsT())
    with pytest.raises(UnsupportedModel, match="is no handle of a variable"):
        load_source(cases.save(tmp_path, shaped=False), CompileOptions())


def test_layers_of_single_steps_remember_their_last_runs(tmp_path: Path) -> None:
    rng, cases = np.random.default_rng(3), Cases()
    x = cases.input(rng.standard_normal((1, 5)).astype(F32))

    def weights(*shape: int) -> int:
        return cases.constant(rng.standard_normal(shape).astype(F32) * F32(0.5))

    def memory(*shape: int) -> int:
        made = cases.tensor(shape)
        cases.tensors[made].isVariable = True
        return made

    svdf, rnn, lstm = schema.SVDFOptionsT(), schema.RNNOptionsT(), schema.LSTMOptionsT()
    svdf.rank, svdf.fusedActivationFunction, rnn.fusedActivationFunction = 2, 1, 4
    lstm.fusedActivationFunction = 4
    filters = [weights(8, 5), weights(8, 3), weights(4)]
    cases.op("SVDF", [x, *filters, memory(1, 24)], [cases.tensor([1, 4])], svdf)
    cases.op("RNN", [x, weights(4, 5), weights(4, 4), weights(4), memory(1, 4)], [cases.tensor([1, 4])], rnn)
    gates = [*(weights(3, 5) for _ in range(4)), *(weights(3, 3) for _ in range(4)), -1, -1, -1]
    given = [x, *gates, *(weights(3) for _ in range(4)), -1, -1, memory(1, 3), memory(1, 3), -1, -1, -1, -1]
    cases.op("LSTM", given, [cases.tensor([1, 3])], lstm)
    path = cases.save(tmp_path, shaped=False)
    source = load_source(path, CompileOptions())
    assert len(source.states) == 4
    result = compile_model(path, detect(), QUICK, output=tmp_path / "steps.edge")
    assert result.evidence["steps"] == 8
    assert all(error["max_rel"] < 1e-5 for error in result.evidence["outputs"])


def test_a_branch_assigns_to_a_variable(tmp_path: Path) -> None:
    """Where the sum of the input is positive, it is added to a total; a loud one is remembered as it is."""
    cases = Cases()
    number, begin = cases.graph()
    once(cases, number)
    assign(begin, handle(begin, "total"), begin.constant(np.ones((1, 4), F32)))
    assign(begin, handle(begin, "last"), begin.constant(np.full((1, 4), -1, F32)))
    x = cases.input(np.zeros((1, 4), F32))
    axes = cases.constant(np.array([0, 1], np.int32))
    whole = cases.op("SUM", [x, axes], [cases.tensor([])], schema.ReducerOptionsT(), returned=False)
    zero = cases.constant(np.array(0, F32))
    positive = cases.op("GREATER", [whole, zero], [cases.tensor([], "bool")], returned=False)
    then_number, then = cases.graph()
    given = then.input([1, 4])
    total = handle(then, "total")
    more = then.op("ADD", [read(then, total, [1, 4]), given], [then.tensor([1, 4])], schema.AddOptionsT())
    assign(then, total, more)
    other_number, other = cases.graph()
    given = other.input([1, 4])
    assign(other, handle(other, "last"), given)
    other.op("NEG", [given], [other.tensor([1, 4])], schema.NegOptionsT())
    options = schema.IfOptionsT()
    options.thenSubgraphIndex, options.elseSubgraphIndex = then_number, other_number
    cases.op("IF", [positive, x], [cases.tensor([1, 4])], options)
    for name in ("total", "last"):
        held = read(cases, handle(cases, name), [1, 4])
        cases.op("ADD", [held, x], [cases.tensor([1, 4])], schema.AddOptionsT())
    path = cases.save(tmp_path, shaped=False)
    assert {state.input for state in load_source(path, CompileOptions()).states} == {"total", "last"}
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "runs.npz", **{cases.tensors[x].name: rng.standard_normal((16, 1, 4)).astype(F32)})
    result = compile_model(
        path, detect(), QUICK, output=tmp_path / "branch.edge", inputs=tmp_path / "runs.npz"
    )
    assert result.evidence["steps"] == 16
    assert all(error["max_rel"] < 1e-5 for error in result.evidence["outputs"])


@pytest.mark.parametrize("passed", [False, True], ids=["named in the body", "passed to the body"])
def test_a_loop_assigns_to_a_variable(passed: bool, tmp_path: Path) -> None:
    """Adds the input to a total until that is large, as the condition reads it; then the total is halved."""
    cases = Cases()
    number, begin = cases.graph()
    once(cases, number)
    assign(begin, handle(begin, "total"), begin.constant(np.ones((1, 4), F32)))
    x = cases.input(np.zeros((1, 4), F32))
    given = [x, handle(cases, "total")] if passed else [x]

    def arguments(graph: Graph) -> tuple[int, int]:
        value = graph.input([1, 4])
        return value, graph.input([], "resource") if passed else handle(graph, "total")

    condition, test = cases.graph()
    _, total = arguments(test)
    axes = test.constant(np.array([0, 1], np.int32))
    whole = test.op(
        "SUM", [read(test, total, [1, 4]), axes], [test.tensor([])], schema.ReducerOptionsT(), returned=False
    )
    test.op("LESS", [whole, test.constant(np.array(40, F32))], [test.tensor([], "bool")])
    body, step = cases.graph()
    value, total = arguments(step)
    more = step.op(
        "ADD", [read(step, total, [1, 4]), value], [step.tensor([1, 4])], schema.AddOptionsT(), returned=False
    )
    assign(step, total, more)
    half = step.constant(np.array(1.5, F32))
    step.op("MUL", [value, half], [step.tensor([1, 4])], schema.MulOptionsT())
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = condition, body
    made = [cases.tensor([1, 4])]
    if passed:
        step.outputs.append(total)
        made.append(cases.tensor([], "resource"))
    cases.op("WHILE", given, made, options, returned=False)
    cases.outputs.append(made[0])
    held = handle(cases, "total")
    half = cases.constant(np.array(0.5, F32))
    less = cases.op("MUL", [read(cases, held, [1, 4]), half], [cases.tensor([1, 4])], schema.MulOptionsT())
    assign(cases, held, less)
    path = cases.save(tmp_path, shaped=False)
    assert {state.input for state in load_source(path, CompileOptions()).states} == {"total"}
    runs = np.random.default_rng(0).uniform(0.5, 2, (16, 1, 4)).astype(F32)
    np.savez(tmp_path / "runs.npz", **{cases.tensors[x].name: runs})
    result = compile_model(path, detect(), QUICK, output=tmp_path / "loop.edge", inputs=tmp_path / "runs.npz")
    assert result.evidence["steps"] == 16
    assert result.evidence["reference"].startswith("LiteRT")
    assert all(error["max_rel"] < 1e-5 for error in result.evidence["outputs"])
