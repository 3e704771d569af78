"""`edgec compile`, and how the commands around it report mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Edgec


def test_a_library_that_warns_on_stdout_leaves_json_alone(
    edgec: Edgec, folder: Path, shared_data: Path
) -> None:
    pytest.importorskip("lightgbm", reason="optional: pip install 'edgec[trees]'")
    trees = shared_data / "xgboost" / "lgbm_breast_cancer.txt"
    done = edgec("compile", trees, "--tune", "none", "-o", "trees.edge", "--json", cwd=folder)
    assert json.loads(done.stdout)["evidence"]["verified"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compile", "none.onnx"), "none.onnx: no such model file"),
        (("compile", "small.onnx"), "--input x:nx3xhxw"),
        (("compile", "small.onnx", "--input", "x:axb"), "not of the form"),
        (("compile", "small.onnx", "--target", "toaster"), "toaster"),
        (("compile", "small.onnx", "--target", "x86-64-v3,toaster"), "toaster"),
        (("compile", "small.onnx", "--target", "rpi5,cortex-a76"), "rpi5 is named twice"),
        (("compile", "small.onnx", "--target", "rpi5,rpi4", "-o", "x.edge"), "name a folder, such as x"),
        (("inspect", "cut.edge"), "cut.edge"),
        (("compile", "small.onnx", "-o", "."), "is a folder, and this command writes a file"),
        (("compile", "small.onnx", "-o", "small.onnx/x/y.edge"), "small.onnx is a file, not a folder"),
        (("debug", "reduce", "small.onnx", "-o", "."), "is a folder, and this command writes a file"),
        (("models", "build", "shapes-v1", "-o", "small.onnx/x"), "small.onnx/x: Not a directory"),
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


def test_what_was_decided_on_the_way_is_said(edgec: Edgec, folder: Path) -> None:
    wishes = ("--target", "x86-64-v3", "--precision", "auto", "--tune", "none", "--no-verify")
    done = edgec("compile", "small.onnx", "--input", "x:1x3x12x12", *wishes, "-o", "auto.edge", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "note: x86-64-v3 has no bfloat16 dot products" in done.stderr
    (folder / "auto.edge").unlink()


def test_what_must_be_faster_is_not_written_when_nothing_shows_that_it_is(edgec: Edgec, folder: Path) -> None:
    wishes = (
        "--input",
        "x:1x3x12x12",
        "--tune",
        "none",
        "--no-verify",
        "--require-faster",
        "-o",
        "fast.edge",
    )
    done = edgec("compile", "small.onnx", *wishes, cwd=folder)
    assert done.returncode == 1
    assert "--require-faster needs a measurement" in done.stderr
    assert not (folder / "fast.edge").exists()


def test_a_file_whose_name_is_not_utf8_compiles(edgec: Edgec, folder: Path, tmp_path: Path) -> None:
    model = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    model.write_bytes((folder / "small.onnx").read_bytes())
    output = tmp_path / os.fsdecode(b"caf\xe9.edge")
    size = ("--input", "x:1x3x12x12", "--tune", "none")
    done = edgec("compile", model, *size, "-o", output)
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9.edge for" in done.stdout
    shown = edgec("inspect", output)
    assert shown.returncode == 0, shown.stderr
    assert "caf?.onnx" in shown.stdout
    assert edgec("verify", output, model).returncode == 0
    missing = edgec("inspect", tmp_path / os.fsdecode(b"\xff.onnx"))
    assert "\\udcff.onnx: no such file" in missing.stderr


def test_several_targets_are_compiled_though_one_fails(edgec: Edgec, folder: Path) -> None:
    """The failing one is named at the end, and decides the exit status."""
    (folder / "none.toml").write_text(
        'name = "none"\ndescription = "none"\nextends = "cuda"\ndevice_kind = "abacus"\n'
    )
    wishes = (
        "--target",
        "x86-64-v2,./none.toml,x86-64-v3",
        "--input",
        "x:1x3x12x12",
        "--tune",
        "none",
        "--no-verify",
    )
    done = edgec("compile", "small.onnx", *wishes, "-o", "boards", "--json", cwd=folder)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert list(told["artifacts"]) == ["x86-64-v2", "x86-64-v3"]
    assert all(Path(folder, one["artifact"]).is_file() for one in told["artifacts"].values())
    assert "abacus" in told["failed"]["none"]
    assert {path.name for path in (folder / "boards").iterdir()} == {
        "small-x86-64-v2.edge",
        "small-x86-64-v3.edge",
    }
