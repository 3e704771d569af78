"""IF, WHILE, CASE and calls, beside LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.tflite.flat import read
from edgec.compiler.frontends.tflite.load import to_onnx
from tests.compiler.frontends.tflite.models import Cases, Graph, assert_same

F32 = np.float32


def scaled(cases: Cases, factor: float, shape: list[int]) -> int:
    """A graph that multiplies by a factor."""
    number, graph = cases.graph()
    x = graph.input(shape)
    graph.op("MUL", [x, graph.constant(F32(factor))], options=schema.MulOptionsT())
    return number


def branches(then: int, other: int) -> schema.IfOptionsT:
    options = schema.IfOptionsT()
    options.thenSubgraphIndex, options.elseSubgraphIndex = then, other
    return options


def loop(condition: int, body: int) -> schema.WhileOptionsT:
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = condition, body
    return options


@pytest.mark.parametrize("first", [1.0, -1.0])
def test_if_takes_the_branch_of_its_condition(first: float, tmp_path: Path) -> None:
    cases = Cases()
    x = cases.input(np.array([[first, 2, 3]], F32))
    total = cases.op(
        "SUM",
        [x, cases.constant(np.array([0, 1], np.int32))],
        options=schema.ReducerOptionsT(),
        returned=False,
    )
    positive = cases.op("GREATER", [total, cases.constant(F32(5.5))], "bool", returned=False)
    then, other = scaled(cases, 2.0, [1, 3]), scaled(cases, -3.0, [1, 3])
    cases.op("IF", [positive, x], options=branches(then, other))
    assert_same(cases, tmp_path, compiled=True)


def counted(cases: Cases, limit: int) -> tuple[int, int]:
    """Graphs of `while i < limit: i, x = i + 1, x * 1.5 - 0.25`."""
    condition, test = cases.graph()
    i, _ = test.input([], "int32"), test.input([2, 3])
    test.op("LESS", [i, test.constant(np.array(limit, np.int32))], "bool")
    body, step = cases.graph()
    i, x = step.input([], "int32"), step.input([2, 3])
    step.op("ADD", [i, step.constant(np.array(1, np.int32))], "int32", schema.AddOptionsT())
    y = step.op("MUL", [x, step.constant(F32(1.5))], options=schema.MulOptionsT(), returned=False)
    step.op("SUB", [y, step.constant(F32(0.25))], options=schema.SubOptionsT())
    return condition, body


def test_a_counted_while_is_unrolled(tmp_path: Path) -> None:
    cases = Cases()
    x = cases.input(np.arange(6, dtype=F32).reshape(2, 3))
    begin = cases.constant(np.array(2, np.int32))
    made = [cases.tensor([], "int32"), cases.tensor([2, 3])]
    cases.op("WHILE", [begin, x], made, loop(*counted(cases, 7)))
    assert_same(cases, tmp_path, compiled=True)


def test_a_while_that_ends_by_its_values(tmp_path: Path) -> None:
    cases = Cases()
    x = cases.input(np.array([[0.5, 1.0]], F32))
    condition, test = cases.graph()
    value = test.input([1, 2])
    axes = test.constant(np.array([0, 1], np.int32))
    total = test.op("SUM", [value, axes], options=schema.ReducerOptionsT(), returned=False)
    test.op("LESS", [total, test.constant(F32(40))], "bool")
    body, step = cases.graph()
    step.op("MUL", [step.input([1, 2]), step.constant(F32(2))], options=schema.MulOptionsT())
    cases.op("WHILE", [x], [cases.tensor([1, 2])], loop(condition, body))
    assert_same(cases, tmp_path, native=False, compiled=True)


@pytest.mark.parametrize("index", [0, 1, 2, 5])
def test_case_takes_the_branch_of_its_number(index: int, tmp_path: Path) -> None:
    cases = Cases()
    chosen = cases.input(np.array(index, np.int32))
    x = cases.input(np.array([[1, 2, 3]], F32))
    options = schema.StablehloCaseOptionsT()
    options.branchSubgraphIndices = [scaled(cases, factor, [1, 3]) for factor in (2.0, -3.0, 0.5)]
    cases.op("STABLEHLO_CASE", [chosen, x], options=options)
    assert_same(cases, tmp_path, compiled=True)


def test_a_composite_is_its_decomposition(tmp_path: Path) -> None:
    cases = Cases()
    x = cases.input(np.array([[1, 2, 3]], F32))
    options = schema.StableHLOCompositeOptionsT()
    options.name, options.decompositionSubgraphIndex = "odml.something", scaled(cases, 0.25, [1, 3])
    options.compositeAttributes = np.frombuffer(flexbuffers.Dumps({}), np.uint8)
    cases.op("STABLEHLO_COMPOSITE", [x], options=options)
    assert_same(cases, tmp_path, compiled=True)


def recursive(graph: Graph, number: int) -> None:
    x = graph.input([1, 3])
    graph.op("IF", [graph.constant(np.array(True)), x], options=branches(number, number))


def test_graphs_that_call_themselves_or_do_not_exist_are_refused(tmp_path: Path) -> None:
    for number, told in ((1, "calls itself"), (7, "the file has 2")):
        cases = Cases()
        x = cases.input(np.array([[1, 2, 3]], F32))
        _, graph = cases.graph()
        recursive(graph, number)
        cases.op("IF", [cases.constant(np.array(True)), x], options=branches(1, 1))
        path = cases.save(tmp_path, shaped=False)
        with pytest.raises(UnsupportedModel, match=told):
            to_onnx(read(path.read_bytes(), path), path)
