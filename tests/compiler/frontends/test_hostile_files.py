"""Files made to do harm: archives that burst, nesting without end, data from elsewhere. Each guard has its test."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import formats, load_source
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import model_of, save


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_source(path, CompileOptions())
    assert len(str(caught.value).splitlines()) <= 2


def test_an_archive_that_would_burst_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/data/weights", bytes(66 << 20))
    assert path.stat().st_size < 1 << 20
    refused(path, "would unpack from")


def test_an_archive_of_too_many_files_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MOST_MEMBERS", 50)
    path = tmp_path / "crowd.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/archive_format", "pt2")
        for number in range(50):
            archive.writestr(f"n{number}", b"")
    refused(path, "archive of 51 files")


def nested(depth: int, constant: TensorProto | None = None) -> GraphProto:
    """An If in an If in an If …; the innermost gives `constant`."""
    tensor = constant or numpy_helper.from_array(np.ones(4, "float32"), "inner")
    nodes = [helper.make_node("Identity", ["inner"], ["y"])]
    graph = helper.make_graph(nodes, "g", [], [helper.make_empty_tensor_value_info("y")], [tensor])
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "e", [], [helper.make_empty_tensor_value_info("y")]
    )
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=other)
        graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y")])
    return graph


def test_sub_graphs_have_an_end(tmp_path: Path) -> None:
    """A model of 10 levels is read, one of 24 is not."""
    for depth, allowed in ((10, True), (24, False)):
        model = model_of(nested(depth).node, {"x": [4], "c": (TensorProto.BOOL, [1])}, ["y"])
        path = save(model, tmp_path)
        if allowed:
            assert load_source(path, CompileOptions()).inputs[0].shape == (4,)
        else:
            refused(path, "nested more than 16 deep")


def test_functions_have_an_end(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def function(number: int, last: int) -> object:
        inner = ("Relu", "") if number == last else (f"f{number + 1}", "own")
        node = helper.make_node(inner[0], ["x"], ["y"], domain=inner[1])
        return helper.make_function("own", f"f{number}", ["x"], ["y"], [node], opsets)

    def chain(length: int) -> Path:
        call = helper.make_node("f0", ["x"], ["y"], domain="own")
        functions = [function(number, length - 1) for number in range(length)]
        return save(model_of([call], {"x": [4]}, ["y"], functions=functions), tmp_path)

    refused(chain(400), "more than 200 deep")
    assert [node.op_type for node in load_source(chain(20), CompileOptions()).model.graph.node] == ["Relu"]


def test_data_of_a_sub_graph_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    tensor = numpy_helper.from_array(np.ones(4, "float32"), "inner")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    model = model_of(nested(1, tensor).node, {"x": [4], "c": (TensorProto.BOOL, [1])}, ["y"])
    refused(save(model, tmp_path / "model"), "outside the model's folder")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.json", b'{"learner":' + b"[" * 100_000, "recursion"),
        ("model.ubj", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner" + b"[" * 90, "nested too deep"),
    ],
    ids=["json", "ubjson"],
)
def test_forests_have_an_end(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)
