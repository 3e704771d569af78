"""Recurrent layers with every part that they can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.onnx.fixed_point_lstm import recognised
from edgec.compiler.options import CompileOptions
from tests.compiler.frontends.tflite.models import Cases, assert_same

TANH = 4


def state(cases: Cases, shape: tuple[int, ...]) -> int:
    """A tensor that the model keeps between calls."""
    index = cases.tensor(shape)
    cases.tensors[index].isVariable = True
    return index


def weights(cases: Cases, rng: np.random.Generator, shape: tuple[int, ...], *, small: bool) -> int:
    """Weights as floats, or of 8 bits."""
    if small:
        return cases.constant(rng.integers(-127, 128, shape).astype("int8"), scale=0.004, zero=0)
    return cases.constant((rng.standard_normal(shape) * 0.4).astype("float32"))


def direction(
    cases: Cases, rng: np.random.Generator, inputs: int, cells: int, out: int, parts: frozenset[str]
) -> list[int]:
    """The 17 inputs of one direction of an LSTM: weights, peepholes, biases, projection."""
    small = "small" in parts
    coupled = "coupled" in parts
    made: list[int] = []
    for width in (inputs, out):
        gates = [weights(cases, rng, (cells, width), small=small) for _ in range(4)]
        made += [-1 if coupled else gates[0], *gates[1:]]
    peepholes = [weights(cases, rng, (cells,), small=False) for _ in range(3)]
    made += [-1 if coupled else peepholes[0], *peepholes[1:]] if "peepholes" in parts else [-1] * 3
    biases = [weights(cases, rng, (cells,), small=False) for _ in range(4)]
    made += [-1 if coupled else biases[0], *biases[1:]]
    if "projection" in parts:
        return [
            *made,
            weights(cases, rng, (out, cells), small=small),
            weights(cases, rng, (out,), small=False),
        ]
    return [*made, -1, -1]


def options_of(kind: Any, parts: frozenset[str]) -> Any:
    options = kind()
    options.fusedActivationFunction = TANH
    options.cellClip = 0.4 if "clip" in parts else 0.0
    options.projClip = 0.3 if "clip" in parts else 0.0
    options.asymmetricQuantizeInputs = "asymmetric" in parts
    return options


VARIANTS = [
    frozenset(),
    frozenset({"peepholes"}),
    frozenset({"coupled"}),
    frozenset({"coupled", "peepholes", "clip"}),
    frozenset({"projection", "clip"}),
    frozenset({"projection", "peepholes", "norms"}),
    frozenset({"coupled", "norms"}),
]


def sequences(cases: Cases, rng: np.random.Generator, variants: list[frozenset[str]]) -> None:
    for number, parts in enumerate(variants):
        inputs, cells = 5, 6
        out = 4 if "projection" in parts else cells
        major = number % 2 == 1
        shape = (7, 2, inputs) if major else (2, 7, inputs)
        given = [cases.input(rng.standard_normal(shape).astype("float32"))]
        given += direction(cases, rng, inputs, cells, out, parts)
        given += [state(cases, (2, out)), state(cases, (2, cells))]
        if "norms" in parts:
            norms = [weights(cases, rng, (cells,), small=False) for _ in range(4)]
            given += [-1 if "coupled" in parts else norms[0], *norms[1:]]
        options = options_of(schema.UnidirectionalSequenceLSTMOptionsT, parts)
        options.timeMajor = major
        cases.op("UNIDIRECTIONAL_SEQUENCE_LSTM", given, options=options)


def test_lstms_over_sequences(tmp_path: Path) -> None:
    cases = Cases()
    sequences(cases, np.random.default_rng(0), VARIANTS)
    assert_same(cases, tmp_path, tolerance=1e-5)


def test_lstms_with_weights_of_eight_bits(tmp_path: Path) -> None:
    """LiteRT rounds inputs and outputs to 8 bits before each product; a value on an edge may fall on either side."""
    cases = Cases()
    small = [
        frozenset({"small"}),
        frozenset({"small", "asymmetric"}),
        frozenset({"small", "projection", "clip"}),
    ]
    sequences(cases, np.random.default_rng(1), small)
    assert_same(cases, tmp_path, tolerance=2e-5)


def fixed_point(cases: Cases, rng: np.random.Generator, number: int) -> None:
    """A layer with int8 weights and activations, whose cell has 16 bits."""
    major, coupled, cell_bits = number % 2 == 1, number == 2, (3, 5, 0)[number]
    batch, steps, inputs, cells = (1, 2, 3)[number], 7, 5, (6, 20, 3)[number]
    shape = (steps, batch, inputs) if major else (batch, steps, inputs)
    x, h = {"scale": 0.03, "zero": -11}, {"scale": 1 / 127, "zero": number - 1}
    given = [cases.input(rng.integers(-128, 128, shape).astype("int8"), **x)]
    for width in (inputs, cells):
        scales = rng.uniform(0.005, 0.03, 4)
        gates = [
            cases.constant(rng.integers(-127, 128, (cells, width)).astype("int8"), scale=s) for s in scales
        ]
        given += [-1 if coupled else gates[0], *gates[1:]]
    biases = [
        cases.constant(rng.integers(-3000, 3000, cells).astype("int32"), scale=0.0005) for _ in range(4)
    ]
    given += [-1, -1, -1, -1 if coupled else biases[0], *biases[1:], -1, -1]
    states = [cases.tensor((batch, cells), "int8", **h)]
    states.append(cases.tensor((batch, cells), "int16", scale=2.0 ** (cell_bits - 15)))
    for index in states:
        cases.tensors[index].isVariable = True
    options = options_of(schema.UnidirectionalSequenceLSTMOptionsT, frozenset())
    options.timeMajor, options.cellClip = major, (10.0, 2.0, 0.0)[number]
    cases.op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", [*given, *states, -1, -1, -1, -1], "int8", options, version=4, **h
    )
    inside = [cases.tensor([0]) for _ in range(4)]
    cases.operators[-1].intermediates = [*inside, cases.tensor([0], "int8", **h)]


def test_lstms_in_fixed_point_have_the_bits_of_litert(tmp_path: Path) -> None:
    """With the usual scale of cells, coarser ones that are clipped, and fine ones with coupled gates."""
    rng, cases = np.random.default_rng(6), Cases()
    for number in range(3):
        fixed_point(cases, rng, number)
    assert_same(cases, tmp_path, steps=0)
    graph = load_source(tmp_path / "cases.tflite", CompileOptions()).model.graph
    bodies = [
        a.g for node in graph.node if node.op_type == "Scan" for a in node.attribute if a.name == "body"
    ]
    layers = [recognised(body) for body in bodies]
    found = {layer and (layer.cell_bits, layer.coupled) for layer in layers}
    assert found == {(3, False), (5, False), (0, True)}


@pytest.mark.parametrize(
    ("merged", "parts"), [(True, frozenset()), (False, frozenset({"peepholes", "clip"}))]
)
def test_lstms_in_both_directions(merged: bool, parts: frozenset[str], tmp_path: Path) -> None:
    """Time first: with the batch first, LiteRT's own outputs change from one call to the next."""
    rng = np.random.default_rng(2)
    cases = Cases()
    given = [cases.input(rng.standard_normal((6, 2, 5)).astype("float32"))]
    for _ in range(2):
        given += direction(cases, rng, 5, 4, 4, parts)
    given += [state(cases, (2, 4)) for _ in range(4)] + [-1] * 9
    options = options_of(schema.BidirectionalSequenceLSTMOptionsT, parts)
    options.mergeOutputs, options.timeMajor = merged, True
    made = [cases.tensor([]) for _ in range(1 if merged else 2)]
    cases.op("BIDIRECTIONAL_SEQUENCE_LSTM", given, made, options)
    assert_same(cases, tmp_path, tolerance=1e-5)


def test_single_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = Cases()
    given = [cases.input(rng.standard_normal((2, 5)).astype("float32"))]
    given += [*direction(cases, rng, 5, 4, 4, frozenset()), state(cases, (2, 4)), state(cases, (2, 4))]
    cases.op("LSTM", given, options=options_of(schema.LSTMOptionsT, frozenset()))
    basic = options_of(schema.LSTMOptionsT, frozenset())
    basic.kernelType = schema.LSTMKernelType.BASIC
    x, h, cell = (
        cases.input(rng.standard_normal(shape).astype("float32")) for shape in ((2, 5), (2, 4), (2, 4))
    )
    matrix, bias = weights(cases, rng, (16, 9), small=False), weights(cases, rng, (16,), small=False)
    made = [cases.tensor([]) for _ in range(4)]
    cases.op("LSTM", [x, h, matrix, bias, cell], made, basic, returned=False)
    cases.outputs += made[:2]
    for number in (0, 1, 3, TANH):
        rnn = schema.RNNOptionsT()
        rnn.fusedActivationFunction = number
        x = cases.input(rng.standard_normal((2, 5)).astype("float32"))
        parts = [weights(cases, rng, shape, small=False) for shape in ((4, 5), (4, 4), (4,))]
        cases.op("RNN", [x, *parts, state(cases, (2, 4))], options=rnn)
    svdf = schema.SVDFOptionsT()
    svdf.rank, svdf.fusedActivationFunction = 2, 1
    x = cases.input(rng.standard_normal((2, 5)).astype("float32"))
    parts = [weights(cases, rng, shape, small=False) for shape in ((8, 5), (8, 3), (4,))]
    cases.op("SVDF", [x, *parts, state(cases, (2, 24))], options=svdf)
    assert_same(cases, tmp_path, tolerance=1e-5)


def test_simple_layers_over_sequences(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cases = Cases()
    for number, major in ((TANH, False), (1, True), (3, False)):
        shape = (6, 2, 5) if major else (2, 6, 5)
        options = schema.SequenceRNNOptionsT()
        options.timeMajor, options.fusedActivationFunction = major, number
        x = cases.input(rng.standard_normal(shape).astype("float32"))
        parts = [weights(cases, rng, size, small=False) for size in ((4, 5), (4, 4), (4,))]
        cases.op("UNIDIRECTIONAL_SEQUENCE_RNN", [x, *parts, state(cases, (2, 4))], options=options)
        both = schema.BidirectionalSequenceRNNOptionsT()
        both.timeMajor, both.fusedActivationFunction, both.mergeOutputs = major, number, major
        given = [x]
        for _ in range(2):
            given += [weights(cases, rng, size, small=False) for size in ((4, 5), (4, 4), (4,))]
            given.append(state(cases, (2, 4)))
        made = [cases.tensor([]) for _ in range(1 if major else 2)]
        cases.op("BIDIRECTIONAL_SEQUENCE_RNN", [*given, -1, -1, -1], made, both)
    assert_same(cases, tmp_path, tolerance=1e-5)
