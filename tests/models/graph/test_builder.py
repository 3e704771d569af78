"""The builder's core: names by scope, shared constants, renamed outputs, and files that appear whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgec.models.graph import Graph, save


def test_nodes_and_weights_are_named_by_scope() -> None:
    graph = Graph("test")
    x = graph.input("x", (1, 3, 4, 4))
    with graph.scope("block"), graph.scope("0"):
        y = graph.relu(graph.conv(x, 2, 1, "conv"))
        z = graph.relu(y)
    model = graph.finish({"out": z}, "a description")
    assert [node.name for node in model.graph.node] == [
        "/block/0/conv/Conv", "/block/0/Relu", "/block/0/Relu_1",
    ]  # fmt: skip
    assert [weight.name for weight in model.graph.initializer] == ["block.0.conv.weight"]
    assert [output.name for output in model.graph.output] == ["out"]
    assert model.graph.node[-1].output == ["out"]
    assert model.doc_string == "a description"


def test_equal_constants_are_stored_once() -> None:
    graph = Graph("test")
    assert graph.ints(1, 2) == graph.ints(1, 2)
    assert graph.ints(1, 2) != graph.ints(2, 1)
    x = graph.input("x", (1, 2))
    model = graph.finish({"y": graph.relu6(graph.relu6(x))})
    assert len(model.graph.initializer) == 4  # two vectors of integers, and the bounds of both clips
    onnx.checker.check_model(model, full_check=True)


def test_statistics_are_no_parameters() -> None:
    graph = Graph("test")
    graph.batch_norm(graph.input("x", (1, 5, 2, 2)), "bn")
    assert graph.cost.params == 10


def test_random_weights_depend_on_the_model_and_the_path_alone() -> None:
    def weight(model: str, name: str, before: int = 0) -> np.ndarray:
        graph = Graph(model)
        for number in range(before):
            graph.weight(f"other{number}", (3, 4), 1.0)
        return graph.weight(name, (3, 4), 1.0)[1]

    assert np.array_equal(weight("a", "w"), weight("a", "w", before=2))
    assert not np.array_equal(weight("a", "w"), weight("a", "v"))
    assert not np.array_equal(weight("a", "w"), weight("b", "w"))


def test_a_scope_ends_with_an_error() -> None:
    graph = Graph("test")
    with pytest.raises(ZeroDivisionError), graph.scope("inner"):
        _ = 1 / 0
    assert graph.weight("w", (1,), 1.0)[0] == "w"


def test_a_saved_model_is_whole_and_repeats(tmp_path: Path) -> None:
    def model() -> onnx.ModelProto:
        graph = Graph("test")
        return graph.finish({"y": graph.dense(graph.input("x", (1, 3)), 2, "d")})

    save(model(), tmp_path / "a.onnx")
    save(model(), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)
