"""The commands around a compile, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgec.cli.arguments import parse_shapes
from edgec.targets import UsageError
from tests.cli.conftest import Edgec
from tests.compiler.onnx_models import model_of, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["y"], name="second"),
    ]
    weights = {"w": rng.standard_normal((8, 3, 3, 3)).astype("float32")}
    save(model_of(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], weights), place, "small.onnx")
    return place


@pytest.fixture(scope="module")
def artifact(edgec: Edgec, folder: Path) -> Path:
    done = edgec(
        "compile", "small.onnx", "--input", "x:1x3x12x12", "--tune", "none", "-o", "small.edge", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "equals onnxruntime" in done.stdout
    assert "the speed of ONNX Runtime" in done.stdout
    return folder / "small.edge"


def test_inspect_a_model(edgec: Edgec, folder: Path) -> None:
    facts = json.loads(edgec("inspect", "small.onnx", "--input", "x:1x3x12x12", "--json", cwd=folder).stdout)
    assert facts["operators"] == {"Conv": 1, "Relu": 1}
    assert facts["parameters"] == 8 * 27
    assert facts["multiply_adds"] == 8 * 27 * 100
    assert facts["unsupported"] == []
    free = edgec("inspect", "small.onnx", cwd=folder)
    assert free.returncode == 0
    assert "--input x:nx3xhxw" in free.stdout


def test_inspect_a_model_that_is_not_onnx(edgec: Edgec, folder: Path, shared_data: Path) -> None:
    trees = edgec(
        "inspect", shared_data / "xgboost" / "xg_agaricus.model", "--input", "input:1x127", cwd=folder
    )
    assert trees.returncode == 0, trees.stderr
    assert "TreeEnsemble" in trees.stdout


def test_a_library_that_warns_on_stdout_leaves_json_alone(
    edgec: Edgec, folder: Path, shared_data: Path
) -> None:
    pytest.importorskip("lightgbm", reason="optional: pip install 'edgec[trees]'")
    trees = shared_data / "xgboost" / "lgbm_breast_cancer.txt"
    done = edgec("compile", trees, "--tune", "none", "-o", "trees.edge", "--json", cwd=folder)
    assert json.loads(done.stdout)["evidence"]["verified"]


def test_inspect_verify_bench_and_profile_an_artifact(edgec: Edgec, folder: Path, artifact: Path) -> None:
    shown = json.loads(edgec("inspect", artifact, "--json", cwd=folder).stdout)
    assert shown["evidence"]["verified"]
    assert shown["config"]["inputs"][0]["shape"] == [1, 3, 12, 12]
    proof = edgec("verify", artifact, "small.onnx", "--json", cwd=folder)
    assert proof.returncode == 0, proof.stderr
    assert json.loads(proof.stdout)["same_source"]
    bench = edgec("bench", artifact, "small.onnx", "--runs", "20", "--threads", "1", "--json", cwd=folder)
    measured = json.loads(bench.stdout)
    assert measured["threads"] == 1
    assert set(measured["latency"]) == {"edgec", "onnxruntime"}
    assert measured["latency"]["edgec"]["runs"] >= 20


def test_profile_puts_each_layer_beside_what_the_machine_can_do(
    edgec: Edgec, folder: Path, artifact: Path
) -> None:
    options = ("--repeats", "6", "--seconds", "0.5")
    profile = json.loads(edgec("profile", artifact, *options, "--json", cwd=folder).stdout)
    first = next(layer for layer in profile["layers"] if "first" in layer["nodes"])
    assert first["op"] == "conv2d"
    assert first["schedule"]
    assert 0 < first["peak_share_quartiles"][0] <= first["peak_share"] <= first["peak_share_quartiles"][1]
    assert first["bytes"] > first["weight_bytes"] >= 8 * 3 * 9 * 4
    assert first["bound"] in ("compute", "L2", "L3", "memory")
    assert first["runs"] == profile["runs"] >= 1
    assert profile["peak"]["high"] >= profile["peak"]["low"] > 0
    assert all(profile["bandwidth"][place] > 0 for place in ("l2", "memory"))
    assert sum(kind["share"] for kind in profile["kinds"]) == pytest.approx(1)
    shown = edgec("profile", artifact, *options, "--plot", "small.svg", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert (folder / "small.svg").read_text().startswith("<svg")
    (folder / "small.svg").unlink()
    assert "GFLOP/s (fp32) peak" in shown.stdout
    assert "by kind" in shown.stdout


def test_verify_fails_on_another_model(edgec: Edgec, folder: Path, artifact: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    other = model_of(nodes, {"x": [1, 3, 12, 12]}, ["y"], {"w": np.ones((8, 3, 3, 3), "float32")})
    save(other, folder, "other.onnx")
    done = edgec("verify", artifact, "other.onnx", cwd=folder)
    assert done.returncode == 1
    assert "a different file" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compile", "none.onnx"), "none.onnx: no such model file"),
        (("compile", "small.onnx"), "--input x:nx3xhxw"),
        (("compile", "small.onnx", "--input", "x:axb"), "not of the form"),
        (("compile", "small.onnx", "--target", "toaster"), "toaster"),
        (("inspect", "cut.edge"), "cut.edge"),
        (("profile", "small.onnx", "--plot", "layers.png"), "name an .svg file"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(
    edgec: Edgec, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    (folder / "cut.edge").write_bytes(b"oci-layout" + bytes(100))
    before = {path.name for path in folder.iterdir()}
    done = edgec(*arguments, cwd=folder)
    assert done.returncode not in (0, None)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert {path.name for path in folder.iterdir()} == before


def test_shapes_on_the_command_line() -> None:
    assert parse_shapes(["a:0:1x3x4", "b:7"]) == {"a:0": (1, 3, 4), "b": (7,)}
    for wrong in ("a", "a:", ":1x2", "a:1x", "a:-1x2", "a:1x9999999999999"):
        with pytest.raises(UsageError):
            parse_shapes([wrong])
    with pytest.raises(UsageError, match="twice"):
        parse_shapes(["a:1", "a:2"])


def test_verify_by_layers_names_every_value(edgec: Edgec, folder: Path, artifact: Path) -> None:
    done = edgec("verify", artifact, "small.onnx", "--layers", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["first"] is None
    assert [layer["op_type"] for layer in found["layers"]] == ["Conv", "Relu"]
    assert [layer["node"] for layer in found["layers"]] == ["first", "second"]


def test_a_failing_model_is_reduced_to_the_node_that_fails(edgec: Edgec, folder: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="before"),
        helper.make_node("Det", ["a"], ["b"], name="culprit"),
        helper.make_node("Neg", ["b"], ["y"], name="after"),
    ]
    save(model_of(nodes, {"x": [3, 4, 4]}, ["y"]), folder, "failing.onnx")
    done = edgec("debug", "reduce", "failing.onnx", "-o", "tiny.onnx", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["nodes"] == ["culprit"]
    assert found["failure"] == "UnsupportedModel"
    with np.load(folder / "tiny.npz") as inputs:
        assert [inputs[name].shape for name in inputs.files] == [(3, 4, 4)]
    fine = edgec("debug", "reduce", "small.onnx", "--input", "x:1x3x12x12", "-o", "no.onnx", cwd=folder)
    assert fine.returncode == 1
    assert "nothing to reduce" in fine.stderr


def test_what_was_decided_on_the_way_is_said(edgec: Edgec, folder: Path) -> None:
    wishes = ("--target", "x86-64-v3", "--precision", "auto", "--tune", "none", "--no-verify")
    done = edgec("compile", "small.onnx", "--input", "x:1x3x12x12", *wishes, "-o", "auto.edge", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "note: x86-64-v3 has no products of bfloat16" in done.stderr
    (folder / "auto.edge").unlink()
