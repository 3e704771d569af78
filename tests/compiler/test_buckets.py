"""Several sets of input shapes in one artifact: chosen at run time, their weights stored once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import typer
from onnx import ModelProto, helper
from typer.testing import CliRunner

import edgec.runtime as rt
from edgec.cli import compile as compile_command
from edgec.cli import inspect as inspect_command
from edgec.cli import run as run_command
from edgec.cli import verify as verify_command
from edgec.cli.arguments import parse_buckets
from edgec.compiler.errors import InputShapeError
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import UsageError, detect
from tests.compiler.onnx_models import model_of, save

RNG = np.random.default_rng(5)
app = typer.Typer()
for module in (compile_command, inspect_command, run_command, verify_command):
    app.command(module.__name__.rpartition(".")[2])(module.command)
SIZES = ("x:1x3x16x24", "x:1x3x32x16")


def free_sizes() -> ModelProto:
    """Sizes free but for the channels; how many rows Compress keeps shows at run time."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "v"], ["y"], name="product"),
        helper.make_node("Compress", ["r", "keep"], ["z"], axis=1, name="odd"),
    ]
    constants: dict[str, Any] = {
        "w": RNG.standard_normal((16, 3, 3, 3)).astype("float32"),
        "v": RNG.standard_normal((16, 4)).astype("float32"),
        "keep": np.array([True, False] * 8),
    }
    return model_of(nodes, {"x": [1, 3, "height", "width"]}, ["y", "z"], constants)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model's file and its artifact for two sizes, made and proven by the command."""
    folder = tmp_path_factory.mktemp("buckets")
    model, artifact = save(free_sizes(), folder), folder / "m.edge"
    arguments = ["compile", str(model), "--tune", "none", "--threads", "1", "-o", str(artifact), "--json"]
    done = CliRunner().invoke(app, [*arguments, "-i", SIZES[0], "-i", SIZES[1]])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["evidence"]["buckets"]
    assert [one["inputs"]["x"] for one in told] == [[1, 3, 16, 24], [1, 3, 32, 16]]
    assert all(output["ok"] for one in told for output in one["outputs"])
    return model, artifact


def test_each_shape_runs_and_others_are_refused(compiled: tuple[Path, Path]) -> None:
    model, artifact = compiled
    session = ort.InferenceSession(model)
    with rt.load(artifact, threads=1) as loaded:
        for height, width in ((16, 24), (32, 16), (16, 24)):
            x = RNG.standard_normal((1, 3, height, width)).astype("float32")
            got = loaded.run({"x": x})
            for name, expected in zip(("y", "z"), session.run(["y", "z"], {"x": x}), strict=True):
                np.testing.assert_allclose(got[name], expected, atol=1e-4)
            times = loaded.profile({"x": x}, repeats=1)
            assert {"conv", "product"} <= {node for layer in times for node in layer.nodes}
        with pytest.raises(rt.InputError, match=r"\[1, 3, 16, 24\] or \[1, 3, 32, 16\] was given as .*20"):
            loaded.run({"x": np.zeros((1, 3, 20, 20), "float32")})
        with pytest.raises(rt.InputError, match="float64"):
            loaded.run({"x": np.zeros((1, 3, 32, 16), "float64")})
    with pytest.raises(rt.InputError, match="closed"):
        loaded.run({"x": np.zeros((1, 3, 32, 16), "float32")})


def test_weights_are_stored_once(compiled: tuple[Path, Path]) -> None:
    artifact = rt.Artifact.open(compiled[1])
    artifact.verify_digests()
    first, second = artifact.config.variants()
    assert first.inputs != second.inputs
    assert set(second.weights) & set(first.weights)
    stored = artifact.weights()
    assert set(stored) == {*first.weights, *second.weights}
    contents = {(w.dtype, w.array.shape, w.array.tobytes()) for w in stored.values()}
    assert len(contents) == len(stored)


def test_commands_know_all_shapes(compiled: tuple[Path, Path], tmp_path: Path) -> None:
    model, artifact = map(str, compiled)
    run = CliRunner().invoke
    shown = run(app, ["inspect", artifact]).output
    assert "[1, 3, 16, 24]" in shown
    assert "or input" in shown
    before = run(app, ["inspect", model, "-i", SIZES[0], "-i", SIZES[1], "--json"])
    assert json.loads(before.stdout)["buckets"][0]["multiply_adds"] > 0
    verified = run(app, ["verify", artifact, model, "--threads", "1", "--json"])
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["buckets"][0]["ok"]
    np.savez(tmp_path / "in.npz", x=np.ones((1, 3, 32, 16), "float32"))
    assert run(app, ["run", artifact, str(tmp_path / "in.npz"), "--json"]).exit_code == 0
    one = run(app, ["verify", artifact, model, "--inputs", str(tmp_path / "in.npz"), "--json"])
    assert "buckets" not in json.loads(one.stdout)
    np.savez(tmp_path / "other.npz", x=np.ones((1, 3, 8, 8), "float32"))
    assert run(app, ["verify", artifact, model, "--inputs", str(tmp_path / "other.npz")]).exit_code != 0


def test_a_missing_library_is_a_damaged_artifact(compiled: tuple[Path, Path], tmp_path: Path) -> None:
    given = rt.Artifact.open(compiled[1])
    weights = {name: weight.array for name, weight in given.weights().items()}
    rt.write_artifact(tmp_path / "m.edge", config=given.config, code=given.code(), weights=weights)
    with pytest.raises(rt.ArtifactError, match=r"model-1\.so"):
        rt.load(tmp_path / "m.edge")


def test_the_same_shapes_twice_are_refused(compiled: tuple[Path, Path], tmp_path: Path) -> None:
    shapes = {"x": (1, 3, 16, 16)}
    options = CompileOptions(tune="none", threads=1, input_shapes=shapes, buckets=(shapes,), verify=False)
    with pytest.raises(InputShapeError, match="given twice"):
        compile_model(compiled[0], detect(), options, output=tmp_path / "m.edge")
    assert not (tmp_path / "m.edge").exists()


def test_sets_of_shapes_on_the_command_line() -> None:
    assert parse_buckets([]) == [{}]
    assert parse_buckets(["a:1x2", "b:3", "a:1x4"]) == [{"a": (1, 2), "b": (3,)}, {"a": (1, 4), "b": (3,)}]
    paired = parse_buckets(["a:1", "b:2", "a:3", "b:4"])
    assert paired == [{"a": (1,), "b": (2,)}, {"a": (3,), "b": (4,)}]
    with pytest.raises(UsageError, match="3 for 'a', 2 for 'b'"):
        parse_buckets(["a:1", "a:2", "a:3", "b:1", "b:2"])
    with pytest.raises(UsageError, match="not of the form"):
        parse_buckets(["a:x"])
